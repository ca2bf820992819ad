"""Checked values out of TOML: every function returns the value or raises TaskError.

The errors say what, the value seen, what is allowed and where to mend it. What the fields mean is not known here.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
TITLE_LENGTH = 200


class TaskError(ValueError):
    """A task, rubric or variant is not valid: says what, the value seen, what is allowed, where to mend it."""


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{path}: not valid TOML: {error}") from None


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text: {error}") from None


def check_fields(data: Mapping[str, Any], allowed: set[str], where: str) -> None:
    if unknown := sorted(set(data) - allowed):
        raise TaskError(f"{where}: unknown field {unknown[0]!r}, allowed: {', '.join(sorted(allowed))}")


def check_slug(slug: str, where: str) -> None:
    """Raise TaskError unless it is a name that can stand in a URL and in a file name."""
    if not SLUG.fullmatch(slug):
        raise TaskError(f"{where}: slug is {slug!r}, allowed: a-z, 0-9, _ and -, at most 63 characters")


def number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TaskError(f"{where} is {value!r}, must be a number")
    return float(value)


def scale_of(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TaskError(f"{where} is {value!r}, must be [lowest, highest]")
    low, high = number(value[0], where), number(value[1], where)
    if low >= high:
        raise TaskError(f"{where} is [{low}, {high}], the first must be below the second")
    return low, high


def texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, (str, int, float)) for v in value):
        raise TaskError(f'{where} is {value!r}, must be a list like ["a", "b"]')
    return tuple(str(v) for v in value)


def title_of(value: Any, where: str) -> str:
    title = str(value).strip()
    if not 1 <= len(title) <= TITLE_LENGTH:
        raise TaskError(f"{where}: title has {len(title)} characters, allowed: 1 to {TITLE_LENGTH}")
    return title
