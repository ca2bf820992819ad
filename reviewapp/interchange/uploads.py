"""Uploaded files on their way in: a folder each in DATA_DIR/uploads, which web server and workers share."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from pathlib import Path

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile

OUTPUTS, RUBRIC = "outputs.jsonl", "rubric.toml"
KEPT_S = 7 * 24 * 3600
NAME = re.compile(r"[0-9a-f]{32}")


def save_upload(outputs: UploadedFile, rubric: UploadedFile | None) -> str:
    """Keep the files; the name of their folder. What was uploaded a week ago and never imported goes."""
    _remove_stale()
    name = secrets.token_hex(16)
    folder = folder_of(name)
    folder.mkdir(parents=True)
    try:
        for file, file_name in ((outputs, OUTPUTS), (rubric, RUBRIC)):
            if file is not None:
                with (folder / file_name).open("wb") as target:
                    for chunk in file.chunks(2**20):
                        target.write(chunk)
    except OSError:  # the disk is full, or who sends it has gone
        remove_upload(name)
        raise
    return name


def folder_of(name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ValueError(f"upload {name!r}: must be 32 hexadecimal digits")
    return Path(settings.MEDIA_ROOT) / name


def remove_upload(name: str) -> None:
    shutil.rmtree(folder_of(name), ignore_errors=True)


def _remove_stale() -> None:
    for folder in Path(settings.MEDIA_ROOT).glob("*"):
        if NAME.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)
