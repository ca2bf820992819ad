"""Figures in words: how a number, an interval and a difference are written in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever writes numbers needs none of the figures
    from reviewapp.calibration.figures import Figure

MINUS, NO_BREAK = "\u2212", "\u00a0"


def number(value: float, decimals: int = 2) -> str:
    """Two decimals and a real minus; 0.00 is never negative."""
    text = f"{abs(value):.{decimals}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) else text


def short(value: float) -> str:
    """A score: as few decimals as it has, two at most."""
    return number(value).rstrip("0").rstrip(".")


def percent(value: float, decimals: int = 0) -> str:
    return f"{number(100 * value, decimals)}{NO_BREAK}%"


def points(value: float, word: str = "point") -> str:
    text = number(value)
    return f"{text} {word}" if text == "1.00" else f"{text} {word}s"


def between(figure: Figure, write: Any = number) -> str:
    """The interval, "low to high"; empty where there is none."""
    return "" if figure["ci"] is None else f"{write(figure['ci'][0])} to {write(figure['ci'][1])}"


def with_interval(figure: Figure, write: Any = number) -> str:
    """The value with its interval in brackets."""
    ends = between(figure, write)
    return write(figure["value"]) + (f" ({ends})" if ends else "")


def is_above(figure: Figure, bar: float = 0.0) -> bool:
    return figure["ci"] is not None and figure["ci"][0] > bar


def is_below(figure: Figure, bar: float = 0.0) -> bool:
    return figure["ci"] is not None and figure["ci"][1] < bar


def counted(n: float, word: str) -> str:
    """ "1 output", "12 outputs"; "person" is "people" in the plural."""
    plural = "people" if word == "person" else f"{word}s"
    return f"{n:,.0f} {word if n == 1 else plural}"


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
