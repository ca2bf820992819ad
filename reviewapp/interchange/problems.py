"""What is wrong with a file: a line, a field, a reason. And the exception that carries the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

SHOWN = 100  # problems told in detail; the rest is counted
SHOWN_A_LINE = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """`line` is None when it is about the whole file; `field` is a path like grades[0].criteria.fluency.score."""

    line: int | None
    field: str
    reason: str

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.field}{' ' if self.field else ''}{self.reason}"

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, "field": self.field, "reason": self.reason}


class ImportRefused(ValueError):
    """Nothing was written. `problems` are the first 100, `n_problems` and `n_bad_lines` count all."""

    def __init__(self, problems: Sequence[Problem], n_problems: int | None = None, n_bad_lines: int | None = None) -> None:
        self.problems = list(problems)
        self.n_problems = len(self.problems) if n_problems is None else n_problems
        self.n_bad_lines = len({p.line for p in self.problems} - {None}) if n_bad_lines is None else n_bad_lines
        super().__init__(self.as_text())

    def as_text(self) -> str:
        return as_lines(self.to_json())

    def to_json(self) -> dict[str, Any]:
        problems = [p.to_json() for p in self.problems]
        return {"problems": problems, "n_problems": self.n_problems, "n_bad_lines": self.n_bad_lines}


def as_lines(refused: Mapping[str, Any]) -> str:
    """What ImportRefused.to_json gave, for a person: a problem a line, then the count."""
    problems = [Problem(**p) for p in refused["problems"]]
    lines = [str(p) for p in problems]
    if refused["n_problems"] > len(lines):
        more = refused["n_problems"] - len(lines)
        lines.append(f"… and {more:,} more problem{'' if more == 1 else 's'}: {refused['n_bad_lines']:,} bad lines in all")
    return "\n".join([*lines, "Nothing was imported."])


class Problems:
    """Collects problems in the order found, keeps the first 100 and counts all."""

    def __init__(self) -> None:
        self.shown: list[Problem] = []
        self.count = 0
        self.bad_lines = 0
        self._last_line: int | None = None

    def add(self, line: int | None, found: Sequence[tuple[str, str]]) -> None:
        """Add one line's (field, reason) pairs."""
        if found and line is not None and line != self._last_line:
            self.bad_lines += 1
            self._last_line = line
        self.count += len(found)
        room = min(SHOWN - len(self.shown), SHOWN_A_LINE)
        self.shown.extend(Problem(line, field, reason) for field, reason in found[:room])

    def raise_if_any(self) -> None:
        if self.count:
            raise ImportRefused(self.shown, self.count, self.bad_lines)


def show(value: Any, limit: int = 60) -> str:
    """A value as it stands in the file, cut when it is long."""
    if isinstance(value, str):
        value = value[: limit + 1]
    elif isinstance(value, (dict, list)) and len(value) > limit:
        return f"an object of {len(value)} fields" if isinstance(value, dict) else f"a list of {len(value)}"
    try:
        text = orjson.dumps(value).decode()
    except TypeError:
        text = f"a deeply nested {'object' if isinstance(value, dict) else 'list'}"
    return text if len(text) <= limit else text[:limit] + "…"
