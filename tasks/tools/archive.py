"""A LaTeX source as arXiv hands it out: a tar file, gzipped or not, or one gzipped file. Read in memory only.

Nothing is ever written to disk, so names with .., absolute names, links and devices have nowhere to go: members that are no
plain files of TeX are not read. Sizes are bounded before anything is unpacked.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import PurePosixPath

from tasks.tools.errors import ExtractError

LARGEST_ARCHIVE = 80 << 20
LARGEST_FILE = 4 << 20
LARGEST_TOTAL = 16 << 20
MOST_MEMBERS = 5_000
ENDINGS = (".tex", ".ltx", ".latex")


def read_source(data: bytes) -> dict[str, str]:
    """Name -> text of each TeX file. Raises ExtractError."""
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(data)
    if data[:5] == b"%PDF-":
        raise ExtractError("the source is a PDF, there is no LaTeX")
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")
    except tarfile.TarError:
        if len(data) > LARGEST_FILE:
            raise ExtractError(f"the source is one file larger than {LARGEST_FILE >> 20} MiB") from None
        return {"main.tex": _text(data)}
    with archive:
        return _members(archive)


def _unzipped(data: bytes) -> bytes:
    reader = zlib.decompressobj(wbits=31)
    try:
        plain = reader.decompress(data, LARGEST_ARCHIVE)
    except zlib.error as error:
        raise ExtractError(f"the source is damaged: {error}") from error
    if reader.unconsumed_tail:
        raise ExtractError(f"the source unpacks to more than {LARGEST_ARCHIVE >> 20} MiB")
    return plain


def _members(archive: tarfile.TarFile) -> dict[str, str]:
    files: dict[str, str] = {}
    total = 0
    try:
        for number, member in enumerate(archive):
            if number >= MOST_MEMBERS:
                raise ExtractError(f"the source has more than {MOST_MEMBERS:,} members")
            name = PurePosixPath(member.name)
            is_plain = member.isreg() and not member.issparse() and member.size <= LARGEST_FILE
            if not is_plain or name.suffix.lower() not in ENDINGS or name.is_absolute() or ".." in name.parts:
                continue
            total += member.size
            if total > LARGEST_TOTAL:
                raise ExtractError(f"the source holds more than {LARGEST_TOTAL >> 20} MiB of TeX")
            if file := archive.extractfile(member):
                files[str(name)] = _text(file.read(LARGEST_FILE))
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise ExtractError(f"the source is damaged: {error}") from error
    if not files:
        raise ExtractError("the source holds no TeX file")
    return files


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
