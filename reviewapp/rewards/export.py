"""Write an export: its data files, dataset card and manifest, whole or not at all.

Everything is written to a folder beside the wanted one and renamed when it is complete. Nothing in the files
depends on the time or place of writing: the same spec on the same data gives the same bytes.
"""

from __future__ import annotations

import gc
import hashlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

import reviewapp
from reviewapp.rewards.card import card_of
from reviewapp.rewards.files import Files
from reviewapp.rewards.formats import Format, format_named
from reviewapp.rewards.rows import Reader
from reviewapp.rewards.second_writer import SecondWriter, worth_it
from reviewapp.rewards.selection import filter_without_names
from reviewapp.rewards.spec import Spec
from reviewapp.rewards.warnings import warnings_of

MANIFEST, CARD = "manifest.json", "README.md"
# stage, outputs read, outputs to read
Progress = Callable[[str, int, int], None]


class ExportError(Exception):
    """An export that can't be written."""


class NothingToWriteError(ExportError):
    """No output has a label by the spec."""


def write_export(spec: Spec, folder: Path, on_progress: Progress = lambda stage, done, total: None) -> dict[str, Any]:
    """Write the export to `folder`, which must be empty or not there; returns its manifest.

    `on_progress` is called for each batch of outputs, and may raise to stop. Raises SpecError, or ExportError; then `folder` is as it was.
    """
    file_format = format_named(spec.format)
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is there and not empty: name another folder")
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.part"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(folder)
        with _garbage_collection_paused():
            manifest = _write_all(spec, file_format, part, on_progress)
        part.replace(folder)  # an empty folder gives way
    except OSError as error:
        raise ExportError(f"{folder} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Rows hold no cycles; looking for some among a batch's million small objects takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _remove_left_overs(folder: Path) -> None:
    """What a kill in the middle of an earlier try left behind."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{32}}\.part")
    for path in folder.parent.iterdir():
        if pattern.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _write_all(spec: Spec, file_format: Format, part: Path, on_progress: Progress) -> dict[str, Any]:
    reader = Reader(spec)
    (part / "data").mkdir(parents=True)
    _write_rows(reader, file_format, part / "data", on_progress)
    if not reader.counts.rows:
        raise NothingToWriteError(
            f"no output has a label by this spec, so there is nothing to write ({reader.counts.outputs:,} outputs looked at)"
        )
    manifest = manifest_of(reader, file_format)
    names = {f"data/{name}{file_format.suffix}": name for name, _ in spec.shares if reader.counts.split[name]}
    files = [_file_entry(part, path) | {"split": name, "rows": reader.counts.split[name]} for path, name in names.items()]
    (part / CARD).write_text(card_of(reader, manifest, files), encoding="utf-8")
    manifest["files"] = [*files, _file_entry(part, CARD)]
    (part / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return manifest


def _write_rows(reader: Reader, file_format: Format, folder: Path, on_progress: Progress) -> None:
    total = reader.outputs.count()
    reader.find_shared_texts(lambda done: on_progress("looking for shared texts", done, total))
    with Files(file_format, folder, reader) as files:
        if worth_it(file_format, total):
            _write_by_two(reader, files, folder.parent / "second", lambda done: on_progress("writing rows", done, max(total, done)))
            return
        for chunk in reader.chunks():
            files.write(chunk)
            on_progress("writing rows", reader.counts.outputs, max(total, reader.counts.outputs))


def _write_by_two(reader: Reader, files: Files, folder: Path, on_progress: Callable[[int], None]) -> None:
    """This process writes the first spans, another one the last; `folder` is the other one's."""
    with SecondWriter(reader, folder) as second:
        for span in second.spans():
            for chunk in reader.chunks(span):
                files.write(chunk)
            on_progress(reader.counts.outputs + second.outputs)
    for written in second.written:
        reader.counts.merge(written.counts)
        for split, path in written.files.items():
            files.append(split, Path(path))
    shutil.rmtree(folder)


def manifest_of(reader: Reader, file_format: Format) -> dict[str, Any]:
    """What the export is made of. The seed of reproduction: spec, counts, versions, hashes; no times."""
    counts = reader.counts
    spec = reader.spec.to_json() | {"filter": filter_without_names(reader.spec, reader.pseudonym)}
    del spec["user_id"]
    return {
        "format": file_format.name,
        "spec": spec,
        "software": {"name": "touchstone", "version": reviewapp.__version__},
        "rows": counts.rows,
        "counts": {
            "source": dict(sorted(counts.source.items())),
            "split": {name: counts.split[name] for name, _ in reader.spec.shares},
            "task": dict(sorted(counts.task.items())),
            "samples": counts.samples,
        },
        "left_out": dict(sorted(counts.left_out.items())),
        "calibrator": (reader.calibration.to_json() or None) if reader.calibration else None,
        "warnings": warnings_of(reader),
    }


def _file_entry(folder: Path, path: str) -> dict[str, Any]:
    with (folder / path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path, "bytes": (folder / path).stat().st_size, "sha256": sha256}
