"""Programs that some tests need. A missing one skips the test by name; with CI=true it fails it."""

from __future__ import annotations

import importlib.util
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
    _miss(f"needs {name}: apt-get install {PACKAGES[name]}")
    return ""


def require_package(name: str) -> None:
    """The same for a Python package of requirements-dev.txt."""
    if importlib.util.find_spec(name) is None:
        _miss(f"needs {name.replace('_', '-')}: pip install -r requirements-dev.txt")


def _miss(message: str) -> None:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)
