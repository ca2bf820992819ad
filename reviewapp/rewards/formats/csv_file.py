"""CSV (RFC 4180): criteria spread over columns, lists and objects as JSON.

Text is written exactly as it is. A cell that starts with = + - or @ would be a formula to a spreadsheet, and
putting a mark before it would change the very text that a model is trained on ("- " begins every Markdown
list); the dataset card says how to open the file safely. Text is in quotes and nothing else is, so that an empty
text ("") and a null (an empty cell) differ. The csv module takes three times as long.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
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


class CsvWriter:
    """What differs from row to row in kind is the criteria; the columns before and after have each their function."""

    def __init__(self, file: BinaryIO, table: Table) -> None:
        self._file, self._keys = file, list(table.criteria)
        self._file.write((",".join(map(_text, columns_of(table))) + EOL).encode())

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        self._file.writelines(map(self._line, rows))

    def _line(self, row: dict[str, Any]) -> bytes:
        given = row["criteria"]
        cells = [cell(value) for cell, value in zip(CELLS_BEFORE, get_before(row), strict=True)]
        cells += [_criterion(tuple(given[key].values())) if key in given else NO_CRITERION for key in self._keys]
        cells += [cell(value) for cell, value in zip(CELLS_AFTER, get_after(row), strict=True)]
        return (",".join(cells) + EOL).encode()

    def close(self) -> None:
        self._file.close()


def _text(value: str | None) -> str:
    if value is None:
        return ""
    return f'"{value}"' if '"' not in value else '"' + value.replace('"', '""') + '"'


def _flag(value: bool | None) -> str:
    return "" if value is None else "true" if value else "false"


def _json(value: Any) -> str:
    return _text(orjson.dumps(value).decode()) if value else EMPTY[type(value)]


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


MOST_WRITTEN = 50_000
_name = Written(_text).__getitem__
_number = Written(lambda value: "" if value is None else repr(value)).__getitem__
_criterion = Written(lambda parts: ",".join([_text(p) if isinstance(p, str) else _number(p) for p in parts])).__getitem__
EMPTY = {list: '"[]"', dict: '"{}"'}
LONG_TEXTS = ("output_id", "prompt", "content", "content_missing", "reference")
CELLS: dict[Kind, Callable[[Any], str]] = {
    **{"text": _name, "number": _number, "integer": repr, "flag": _flag},
    **{"texts": _json, "integers": _json, "json": _json},
}
_cells = [_text if c.name in LONG_TEXTS else CELLS[c.kind] for c in COLUMNS]
_place = NAMES.index("criteria")
CELLS_BEFORE, CELLS_AFTER = _cells[:_place], _cells[_place + 1 :]
get_before, get_after = itemgetter(*NAMES[:_place]), itemgetter(*NAMES[_place + 1 :])


def open_writer(path: Path, table: Table) -> CsvWriter:
    return CsvWriter(path.open("wb", buffering=2**20), table)


def columns_of(table: Table) -> list[str]:
    return [name for name, _ in table.flat(criteria_json=False)]


def text_of(rows: Sequence[dict[str, Any]], table: Table) -> str:
    file = io.BytesIO()
    CsvWriter(file, table).write(rows)
    return file.getvalue().decode()
