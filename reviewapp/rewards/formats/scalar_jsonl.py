"""JSON lines: one object a row, with lists and objects as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from reviewapp.rewards.columns import Table

NOTE = "One JSON object a line, in UTF-8. `criteria`, `overrides` and `meta` are nested."


class JsonlWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=2**20)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        self._file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)

    def append(self, path: Path) -> None:
        with path.open("rb") as part:
            shutil.copyfileobj(part, self._file, 2**20)

    def close(self) -> None:
        self._file.close()


def open_writer(path: Path, table: Table) -> JsonlWriter:
    return JsonlWriter(path)


def text_of(rows: Sequence[dict[str, Any]], table: Table) -> str:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows).decode()
