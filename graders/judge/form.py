"""The form of a judge's answer: its JSON schema, an example for the prompt, and the check of what came back.

Each criterion has a rationale, quotes, and a score (scored criteria) or a verdict (pass, fail, undecided). Schemas of
servers know no ranges, so the check is ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.task import Criterion

VERDICTS = {"pass": True, "fail": False, "undecided": None}
LONGEST_TEXT, LONGEST_QUOTE, MOST_QUOTES = 8_000, 2_000, 8


@dataclass(frozen=True)
class Opinion:
    """One criterion in one answer. Neither score nor verdict: undecided."""

    score: float | None
    passed: bool | None
    rationale: str
    quotes: tuple[str, ...]


@dataclass(frozen=True)
class JudgeAnswer:
    opinions: Mapping[str, Opinion]
    summary: str = ""


def schema_of(criteria: Sequence[Criterion]) -> dict[str, Any]:
    """Rationale first, so that the score follows from it."""
    rows = {c.key: _object({"rationale": _TEXT, "quotes": {"type": "array", "items": _TEXT}, **_decision(c)}) for c in criteria}
    return _object({"criteria": _object(rows), "summary": _TEXT})


def example_of(criteria: Sequence[Criterion]) -> str:
    """The form as the prompt shows it."""
    rows = {c.key: {"rationale": "why, in sentences", "quotes": ["verbatim passage"], **_shown_decision(c)} for c in criteria}
    answer = {"criteria": rows, "summary": "the whole judgement in one or two sentences"}
    return json.dumps(answer, indent=1, ensure_ascii=False)


def _shown_decision(criterion: Criterion) -> dict[str, str]:
    if criterion.kind == "binary":
        return {"verdict": " or ".join(VERDICTS)}
    return {"score": f"a number from {criterion.scale[0]:g} to {criterion.scale[1]:g}, or null"}


def undecided_word(criteria: Sequence[Criterion]) -> str:
    kinds = {c.kind for c in criteria}
    words = (['the verdict "undecided"'] if "binary" in kinds else []) + (["the score null"] if "numeric" in kinds else [])
    return " and ".join(words)


def check_answer(data: Mapping[str, Any], criteria: Sequence[Criterion]) -> JudgeAnswer:
    """The answer. Raises ValueError with what is wrong, for the model to mend."""
    rows = data.get("criteria")
    if not isinstance(rows, Mapping):
        raise ValueError('there is no object "criteria"')
    if missing := [c.key for c in criteria if not isinstance(rows.get(c.key), Mapping)]:
        raise ValueError(f"these criteria are missing: {', '.join(missing)}")
    return JudgeAnswer({c.key: _opinion(c, rows[c.key]) for c in criteria}, _text(data.get("summary", "")))


def _opinion(criterion: Criterion, row: Mapping[str, Any]) -> Opinion:
    rationale = _text(row.get("rationale", ""))
    if not rationale:
        raise ValueError(f"{criterion.key}: there is no rationale")
    quotes = row.get("quotes", [])
    if not isinstance(quotes, list) or not all(isinstance(quote, str) for quote in quotes):
        raise ValueError(f"{criterion.key}: quotes must be a list of texts")
    kept = tuple(dict.fromkeys(quote.strip()[:LONGEST_QUOTE] for quote in quotes if quote.strip()))[:MOST_QUOTES]
    if criterion.kind == "binary":
        passed = _verdict(criterion, row.get("verdict"))
        score = None if passed is None else criterion.scale[passed]
        return Opinion(score, passed, rationale, kept)
    return Opinion(_score(criterion, row.get("score")), None, rationale, kept)


def _verdict(criterion: Criterion, value: Any) -> bool | None:
    word = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(word, str) or word not in VERDICTS:
        raise ValueError(f"{criterion.key}: verdict is {value!r}, allowed: {', '.join(VERDICTS)}")
    return VERDICTS[word]


def _score(criterion: Criterion, value: Any) -> float | None:
    if value is None:
        return None
    low, high = criterion.scale
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{criterion.key}: score is {value!r}, must be a number from {low:g} to {high:g}, or null")
    return float(value)


def _text(value: Any) -> str:
    return value.strip()[:LONGEST_TEXT] if isinstance(value, str) else ""


_TEXT = {"type": "string"}


def _decision(criterion: Criterion) -> dict[str, Any]:
    if criterion.kind == "binary":
        return {"verdict": {"type": "string", "enum": list(VERDICTS)}}
    return {"score": {"anyOf": [{"type": "number"}, {"type": "null"}]}}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}
