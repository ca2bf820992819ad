"""Check one line: JSON, shape, and what its values mean for the rubric of its task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from reviewapp.interchange.lines import bad_utf8
from reviewapp.interchange.problems import show
from reviewapp.interchange.records import Record, record_of
from reviewapp.interchange.shape import field_path, shape_problems
from tasks.task import Criterion, Rubric

NOT_NUMBERS = re.compile(r"-?(?:NaN|Infinity)\b")
Found = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Rules:
    """A rubric with its criteria by key."""

    rubric: Rubric
    criteria: Mapping[str, Criterion]

    @classmethod
    def of(cls, rubric: Rubric) -> Rules:
        return cls(rubric, {c.key: c for c in rubric.criteria})


def check_line(number: int, raw: bytes, rules: Mapping[str, Rules]) -> tuple[Record | None, Found]:
    """The record of a line, or what is wrong with it as (field, reason) pairs. `rules`: by task slug."""
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None, [("", _json_reason(raw.rstrip()))]
    found = shape_problems(data)
    if not found and b"\\u0000" in raw:
        found = list(_nul_problems(data))
    if not found:
        found = list(_meaning_problems(data, rules))
    if found:
        return None, found
    try:
        return record_of(number, data), []
    except TypeError:
        return None, [("", "is nested too deeply, allowed: at most 250 levels in metadata and transcript")]


def _json_reason(raw: bytes) -> str:
    """Why a line, without its end, is not JSON."""
    if reason := bad_utf8(raw):
        return reason
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # The position of -Infinity is that of its second character.
        if word := NOT_NUMBERS.search(raw.decode("utf-8"), max(error.pos - 1, 0), error.pos + 10):
            return f"has {word[0]} at column {error.pos + 1}, which is not JSON: use a number, or null where it is not scored"
        return f"is not valid JSON at column {error.pos + 1}: {error.msg}"
    return "is not valid JSON"


def _nul_problems(data: Any) -> Iterator[tuple[str, str]]:
    """Strings with a NUL character, which PostgreSQL can't store. Walked without recursion: nesting may be deep."""
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while stack:
        loc, value = stack.pop()
        if isinstance(value, str) and "\0" in value:
            yield field_path(loc), f"has a NUL character (\\u0000) at position {value.index(chr(0)) + 1}, which can't be stored"
        elif isinstance(value, dict):
            yield from ((field_path(loc), f"has a field name with a NUL character: {show(key)}") for key in value if "\0" in key)
            stack.extend(((*loc, key), item) for key, item in value.items())
        elif isinstance(value, list):
            stack.extend(((*loc, i), item) for i, item in enumerate(value))


def _meaning_problems(data: Mapping[str, Any], rules: Mapping[str, Rules]) -> Iterator[tuple[str, str]]:
    if data.get("content"):
        if "content_missing" in data:
            yield "content_missing", "is given, but there is content: leave one of them out"
    elif "content_missing" not in data:
        yield "content", 'is empty: give the text, or say in "content_missing" why there is none'
    if data["task"] not in rules:
        known = ", ".join(sorted(rules)) or "none yet"
        how = "define it by a rubric file (--rubric, or the Import page's second field)"
        reason = f"is {show(data['task'])}, which is not here: {how} with [task] slug"
        yield "task", f"{reason} = {show(data['task'])}. Tasks here: {known}"
        return
    for i, grade in enumerate(data.get("grades", ())):
        yield from _grade_problems(i, grade, rules[data["task"]])


def _grade_problems(i: int, grade: Mapping[str, Any], rules: Rules) -> Iterator[tuple[str, str]]:
    overall = grade.get("overall")
    low, high = rules.rubric.scale
    if overall is not None and not low <= overall <= high:
        yield f"grades[{i}].overall", f"is {show(overall)}, allowed: {low:g} to {high:g}"
    for key, given in (grade.get("criteria") or {}).items():
        criterion = rules.criteria.get(key)
        if criterion is None:
            yield f"grades[{i}].criteria.{key[:100]}", f"is not in the rubric, allowed: {', '.join(rules.criteria)}"
        elif reason := _score_reason(given["score"], criterion):
            yield f"grades[{i}].criteria.{key}.score", reason


def _score_reason(score: Any, criterion: Criterion) -> str | None:
    """Why a criterion can't have this score; None if it can. null says that it was not scored."""
    if score is None:
        return None
    low, high = criterion.scale
    if criterion.kind == "categorical":
        if isinstance(score, str) and score in criterion.values:
            return None
        return f"is {show(score)}, allowed: {', '.join(show(v) for v in criterion.values)}"
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return f"is {show(score)}, must be a number from {low:g} to {high:g}"
    if criterion.kind == "binary" and score not in (low, high):
        return f"is {show(score)}, allowed: {low:g} (fail), {high:g} (pass)"
    if not low <= score <= high:
        return f"is {show(score)}, allowed: {low:g} to {high:g}"
    return None
