"""Read a JSONL file line by line in bounded memory. Knows bytes and lines, not what a line means."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

MAX_LINE_BYTES = 20 * 2**20
BATCH_LINES = 1000
BATCH_BYTES = 8 * 2**20

# First bytes of what people name .jsonl by mistake.
MAGIC = (
    (b"PK\x03\x04", "a zip archive (or an .xlsx or .eval file)", "unpack it first"),
    (b"PK\x05\x06", "an empty zip archive", "unpack it first"),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
    (b"BZh", "a bzip2 file", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "write it as JSON lines"),
    (b"SQLite format 3\x00", "an SQLite database", "write its rows as JSON lines"),
    (b"%PDF", "a PDF file", "write it as JSON lines"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"\xef\xbb\xbf", "UTF-8 text with a byte order mark", "save it as UTF-8 without one (without BOM)"),
)


@dataclass(slots=True)
class Batch:
    """Some lines in a row, as (number, text, bytes). Of a line over the limit only the beginning is kept."""

    lines: list[tuple[int, bytes, int]] = field(default_factory=list)
    # Of everything in it: a second reading can tell that the file is still the same.
    digest: bytes = b""
    # Where in the file it ends.
    end: int = 0


def what_it_looks_like(path: Path) -> str | None:
    """Why these bytes can't be JSON lines, judged by how the file begins; None if they may be."""
    with path.open("rb") as file:
        head = file.read(256)
    for magic, name, remedy in MAGIC:
        if head.startswith(magic):
            return f"looks like {name}, must be JSON lines in UTF-8: {remedy}"
    for text, zeros in ((head[0::2], head[1::2]), (head[1::2], head[0::2])):
        if zeros and not any(zeros) and all(text):
            return "looks like UTF-16 text, must be JSON lines in UTF-8: save it as UTF-8"
    if head.lstrip().startswith(b"["):
        return "looks like one JSON array, must be one JSON object a line: write each element on a line of its own"
    return None


def read_batches(path: Path) -> Iterator[Batch]:
    """The lines that are not blank, in batches of at most 1,000 lines and about 8 MB. Numbers count from 1."""
    with path.open("rb") as file:
        batch, size, digest = Batch(), 0, hashlib.sha256()
        for number, line, length in _read_lines(file):
            digest.update(line)
            size += length
            if not line.isspace():
                batch.lines.append((number, line, length))
            if len(batch.lines) >= BATCH_LINES or size >= BATCH_BYTES:
                batch.digest, batch.end = digest.digest(), file.tell()
                yield batch
                batch, size, digest = Batch(), 0, hashlib.sha256()
        batch.digest, batch.end = digest.digest(), file.tell()
        yield batch


def _read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """(number, line, length). Of a line over the limit only the beginning is handed out; the rest is skipped in pieces."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        length = len(line)
        if length > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = line[:64]
            while piece := file.readline(2**20):
                length += len(piece)
                if piece.endswith(b"\n"):
                    break
        yield number, line, length


def bad_utf8(line: bytes) -> str | None:
    """Where a line stops being UTF-8, as a reason; None if it is UTF-8."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text at byte {error.start + 1} of the line (0x{line[error.start]:02x})"
    return None
