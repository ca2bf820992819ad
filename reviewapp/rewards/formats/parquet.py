"""Parquet: typed columns, criteria spread over columns, free objects as JSON text.

The file's metadata holds the writer's version and the schema, no time: the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from reviewapp.rewards.columns import Kind, Table

NOTE = "Typed columns, zstd. `criteria_json`, `overrides` and `meta` are JSON texts, which every reader takes."
ROW_GROUP = 10_000
if TYPE_CHECKING:
    import pyarrow as pa


@cache
def types() -> dict[Kind, pa.DataType]:
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s to import, which other formats do without

    return {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "integers": pa.list_(pa.int64()),
        "json": pa.string(),
    }


class ParquetWriter:
    """Gathers rows to row groups of one size, whatever the size of the batches."""

    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as above
        from pyarrow import parquet  # noqa: PLC0415

        self._kinds = list(table.flat(criteria_json=True))
        self._schema = pa.schema([(name, types()[kind]) for name, kind in self._kinds])
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._table = table
        self._batches: list[pa.RecordBatch] = []
        self._held = 0

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as above

        columns = zip(*(self._table.flat_values(row, criteria_json=True) for row in rows), strict=True)
        arrays = [pa.array(_typed(values, kind), types()[kind]) for values, (_, kind) in zip(columns, self._kinds, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=self._schema))
        self._held += len(arrays[0])
        if self._held >= ROW_GROUP:
            self._flush()

    def append(self, path: Path) -> None:
        raise NotImplementedError("row groups of one size can't be had by joining files")

    def close(self) -> None:
        if self._held:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as above

        self._writer.write_table(pa.Table.from_batches(self._batches), row_group_size=self._held)
        self._batches, self._held = [], 0


def _typed(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    if kind == "json":
        return [orjson.dumps(value).decode() for value in values]
    if kind == "text":  # a criterion that is a category in one rubric and a score in another
        return [None if value is None else str(value) for value in values]
    return values


def open_writer(path: Path, table: Table) -> ParquetWriter:
    return ParquetWriter(path, table)


def columns_of(table: Table) -> list[str]:
    return [name for name, _ in table.flat(criteria_json=True)]


def text_of(rows: Sequence[dict[str, Any]], table: Table) -> str:
    names = columns_of(table)
    flat = (dict(zip(names, table.flat_values(row, criteria_json=True), strict=True)) for row in rows)
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in flat).decode()
