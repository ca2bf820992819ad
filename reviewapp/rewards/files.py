"""The data files that an export's rows go to: one for each split that has rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from reviewapp.rewards.formats import Format, Writer
from reviewapp.rewards.rows import Labelled, Reader


class Files:
    """Opened as they are needed, closed together. `prefix` goes before each name."""

    def __init__(self, file_format: Format, folder: Path, reader: Reader, prefix: str = "") -> None:
        self._format, self._folder, self._reader, self._prefix = file_format, folder, reader, prefix
        self._writers: dict[str, Writer] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()

    @property
    def paths(self) -> dict[str, Path]:
        """split -> its file."""
        return {split: self._path(split) for split in self._writers}

    def write(self, chunk: Sequence[Labelled]) -> None:
        for split, _ in self._reader.spec.shares:
            if some := [row for row in chunk if row.split == split]:
                self._writer(split).write(self._reader.build(some))

    def append(self, split: str, path: Path) -> None:
        """Add the rows of a file of the same format."""
        self._writer(split).append(path)

    def _writer(self, split: str) -> Writer:
        if split not in self._writers:
            self._writers[split] = self._format.open(self._path(split), self._reader.table)
        return self._writers[split]

    def _path(self, split: str) -> Path:
        return self._folder / f"{self._prefix}{split}{self._format.suffix}"
