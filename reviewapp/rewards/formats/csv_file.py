"""CSV (RFC 4180): criteria spread over columns, lists and objects as JSON.

Text is written exactly as it is. A cell that starts with = + - or @ would be a formula to a spreadsheet, and
putting a mark before it would change the very text that a model is trained on ("- " begins every Markdown
list); the dataset card says how to open the file safely. Text is in quotes and nothing else is, so that an empty
text ("") and a null (an empty cell) differ. The csv module takes three times as long.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from reviewapp.rewards.columns import COLUMNS, NAMES, PARTS, Kind, Table

NOTE = (
    "RFC 4180 with a header line, in UTF-8; text is in quotes, an empty cell is null; lists and objects are JSON. "
    "Texts are exact, and models wrote some of them: **a spreadsheet may take a cell that starts with `=`, `+`, `-` or `@` "
    "for a formula**. Read the file by a program, or import it into the spreadsheet with every column as text."
)


EOL = "\r\n"
NO_CRITERION = "," * (len(PARTS) - 1)
LONG_TEXTS = ("output_id", "prompt", "content", "content_missing", "reference")
TOGETHER, MOST_WRITTEN = 100, 50_000


class CsvWriter:
    """Writes a hundred rows at a time, column by column: they stay in the processor's cache, in 0.6 of the time of single rows."""

    def __init__(self, file: BinaryIO, table: Table) -> None:
        self._file, self._keys = file, list(table.criteria)
        self._header = (",".join(map(_text, columns_of(table))) + EOL).encode()
        self._file.write(self._header)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = iter(rows)
        while some := list(islice(rows, TOGETHER)):
            self._file.write("".join([",".join(cells) + EOL for cells in zip(*self._columns(some), strict=True)]).encode())

    def _columns(self, rows: Sequence[dict[str, Any]]) -> Iterator[Iterable[str]]:
        for column, values in zip(COLUMNS, zip(*map(get_values, rows), strict=True), strict=True):
            if column.name == "criteria":
                yield from (_criterion_cells(key, values) for key in self._keys)
            else:
                yield map(_text if column.name in LONG_TEXTS else CELL[column.kind], values)

    def append(self, path: Path) -> None:
        with path.open("rb") as part:
            part.seek(len(self._header))
            shutil.copyfileobj(part, self._file, 2**20)

    def close(self) -> None:
        self._file.close()


class Written(dict[Any, str]):
    """Cells that were written before. Names and scores are few and repeat, and finding one is faster than writing it."""

    def __init__(self, write: Callable[[Any], str]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, value: Any) -> str:
        if len(self) > MOST_WRITTEN:
            self.clear()
        cell = self[value] = self._write(value)
        return cell


def _text(value: str | None) -> str:
    if value is None:
        return ""
    return f'"{value}"' if '"' not in value else '"' + value.replace('"', '""') + '"'


def _json(value: Any) -> str:
    return _text(orjson.dumps(value).decode()) if value else EMPTY[type(value)]


def _texts(values: list[str]) -> str:
    return _few_texts[tuple(values)]


def _integers(values: list[int]) -> str:
    return '"[' + ",".join(map(str, values)) + ']"'


def _criterion_cells(key: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Label, judge, human and weight of one criterion, for each row."""
    return [_criterion[tuple(given[key].values())] if key in given else NO_CRITERION for given in rows]


EMPTY = {list: '"[]"', dict: '"{}"'}
_number = Written(lambda value: "" if value is None else repr(value))
_few_texts = Written(lambda values: _json(list(values)))
_criterion = Written(lambda parts: ",".join([_text(p) if isinstance(p, str) else _number[p] for p in parts]))
CELL: dict[Kind, Callable[[Any], str]] = {
    **{"text": Written(_text).__getitem__, "number": _number.__getitem__, "integer": repr},
    **{"flag": {None: "", True: "true", False: "false"}.__getitem__},
    **{"texts": _texts, "integers": _integers, "json": _json},
}
get_values = itemgetter(*NAMES)


def open_writer(path: Path, table: Table) -> CsvWriter:
    return CsvWriter(path.open("wb", buffering=2**20), table)


def columns_of(table: Table) -> list[str]:
    return [name for name, _ in table.flat(criteria_json=False)]


def text_of(rows: Sequence[dict[str, Any]], table: Table) -> str:
    file = io.BytesIO()
    CsvWriter(file, table).write(rows)
    return file.getvalue().decode()
