"""The formats an export can be written in, one module a format.

A format's writer takes rows a batch at a time and writes one file; the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reviewapp.rewards.columns import Table
from reviewapp.rewards.formats import csv_file, parquet, scalar_jsonl
from reviewapp.rewards.spec import SpecError

# Fixed by contracts, still to be written.
LATER = (
    "trl-preference", "trl-unpaired", "trl-prompt-completion", "trl-prompt", "rewardbench", "openrlhf", "verl", "verifiers", "inspect",
)  # fmt: skip


class Writer(Protocol):
    """Writes one file. `close` completes it; `append` (of a format that joins) adds the rows of another such file."""

    def write(self, rows: Iterable[dict[str, Any]]) -> None: ...

    def append(self, path: Path) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Format:
    """`text_of` gives the rows as the file's text has them (a table that is not text: as JSON), for a preview."""

    name: str
    title: str
    suffix: str
    open: Callable[[Path, Table], Writer]
    text_of: Callable[[Sequence[dict[str, Any]], Table], str]
    # What a reader of the dataset card must know about this format.
    note: str
    # Can the rows of two files be put one after the other?
    joins: bool = True


def parts_of(module: Any) -> tuple[Any, ...]:
    """The three names that every module of a format has."""
    return module.open_writer, module.text_of, module.NOTE


FORMATS = {
    f.name: f
    for f in (
        Format("scalar-jsonl", "JSON lines", ".jsonl", *parts_of(scalar_jsonl)),
        Format("csv", "CSV", ".csv", *parts_of(csv_file)),
        Format("parquet", "Parquet", ".parquet", *parts_of(parquet), joins=False),
    )
}


def format_named(name: str) -> Format:
    """Raises SpecError that lists what there is."""
    if name in FORMATS:
        return FORMATS[name]
    there = ", ".join(FORMATS)
    if name in LATER:
        raise SpecError("format", f"format {name!r} can't be written yet, there are: {there}")
    raise SpecError("format", f"format is {name!r}, allowed: {there}")
