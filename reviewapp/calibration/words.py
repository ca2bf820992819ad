"""Figures in words: how a value with its interval is written in a sentence."""

from __future__ import annotations

from typing import Any

from reviewapp.calibration.figures import Figure
from reviewapp.words import number


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
