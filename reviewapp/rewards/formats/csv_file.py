"""CSV (RFC 4180): criteria spread over columns, lists and objects as JSON.

Text is written exactly as it is. A cell that starts with = + - or @ would be a formula to a spreadsheet, and
putting a mark before it would change the very text that a model is trained on ("- " begins every Markdown
list); the dataset card says how to open the file safely. Text is in quotes and nothing else is, so that an empty
text ("") and a null (an empty cell) differ. The csv module takes three times as long.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import orjson

from reviewapp.rewards.columns import Table

NOTE = (
    "RFC 4180 with a header line, in UTF-8; text is in quotes, an empty cell is null; lists and objects are JSON. "
    "Texts are exact, and models wrote some of them: **a spreadsheet may take a cell that starts with `=`, `+`, `-` or `@` "
    "for a formula**. Read the file by a program, or import it into the spreadsheet with every column as text."
)


EOL = "\r\n"
_float = lru_cache(10_000)(float.__repr__)  # scores are few and repeat


class CsvWriter:
    """Text is always quoted and nothing else is, so that an empty text ("") and a null (an empty cell) differ."""

    def __init__(self, file: TextIO, table: Table) -> None:
        self._file, self._table = file, table
        self._file.write(",".join(map(_quoted, columns_of(table))) + EOL)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        flat_values = self._table.flat_values
        lines = [",".join([_cell(value) for value in flat_values(row, criteria_json=False)]) for row in rows]
        self._file.write(EOL.join([*lines, ""]))

    def close(self) -> None:
        self._file.close()


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    kind = type(value)
    if kind is str:
        return '"' + value.replace('"', '""') + '"'
    if kind is float:
        return _float(value)
    if kind is int:
        return repr(value)
    if kind is bool:
        return "true" if value else "false"
    return _quoted(orjson.dumps(value).decode())


def open_writer(path: Path, table: Table) -> CsvWriter:
    return CsvWriter(path.open("w", encoding="utf-8", newline="", buffering=2**20), table)


def columns_of(table: Table) -> list[str]:
    return [name for name, _ in table.flat(criteria_json=False)]


def text_of(rows: Sequence[dict[str, Any]], table: Table) -> str:
    file = io.StringIO(newline="")
    CsvWriter(file, table).write(rows)
    return file.getvalue()
