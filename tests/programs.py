"""Programs that some tests need. A missing one skips the test by name; with CI=true it fails it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PACKAGES = {"chromium": "chromium", "bwrap": "bubblewrap", "redis-server": "redis-server", "postgres": "postgresql"}


def find_program(name: str) -> str | None:
    if name == "postgres":
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        return str(found[-1]) if found else shutil.which(name)
    return shutil.which(name)


def require_program(name: str) -> str:
    """The program's path; skips the test (fails it in CI) with the line that installs it."""
    if path := find_program(name):
        return path
    message = f"needs {name}: apt-get install {PACKAGES[name]}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)
