"""Numbers in words: how they are written in a sentence, on every page."""

from __future__ import annotations

import re
from collections.abc import Callable

MINUS, NO_BREAK = "\u2212", "\u00a0"


def number(value: float, decimals: int = 2) -> str:
    """Two decimals and a real minus; 0.00 is never negative."""
    text = f"{abs(value):.{decimals}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) else text


def signed(value: float, write: Callable[[float], str] = number) -> str:
    """A difference: with its sign, always."""
    return f"+{write(value)}" if value > 0 else write(value)


def short(value: float) -> str:
    """A score: as few decimals as it has, two at most."""
    return number(value).rstrip("0").rstrip(".")


def percent(value: float, decimals: int = 0) -> str:
    return f"{number(100 * value, decimals)}{NO_BREAK}%"


def points(value: float, word: str = "point") -> str:
    text = number(value)
    return f"{text} {word}" if text == "1.00" else f"{text} {word}s"


def counted(n: float, word: str) -> str:
    """ "1 output", "12 outputs"; "person" is "people" in the plural."""
    plural = "people" if word == "person" else f"{word}s"
    return f"{n:,.0f} {word if n == 1 else plural}"


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def version_word(version: str) -> str:
    """ "v2" for "2"; a version that is written with its v already stays as it is."""
    return version if re.match(r"v\W*\d", version, re.IGNORECASE) else f"v{version}"
