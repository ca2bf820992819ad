"""The shape of a line, and pydantic's errors in our words. What a value means for a rubric is in check.py.

TypedDict rather than models: validation makes plain dicts, at about two thirds of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from reviewapp.interchange.problems import show

STRICT = ConfigDict(strict=True, extra="forbid")
FORMATS = ("markdown", "python", "text")
MAX_GRADES = 10_000
MAX_CRITERIA = 1000


class EvidenceShape(TypedDict):
    """A verbatim quote of the output, or lines of it counted from 1."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    text: str
    kind: NotRequired[Literal["quote", "static", "trace", "run"]]
    line_start: NotRequired[Annotated[int, Field(ge=1)] | None]
    line_end: NotRequired[Annotated[int, Field(ge=1)] | None]


class CriterionShape(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    # Number, category or null (not scored): check.py knows which, by the rubric.
    score: Any
    rationale: NotRequired[str]
    evidence: NotRequired[Annotated[list[EvidenceShape], Field(max_length=1000)]]


class GradeShape(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    grader: Annotated[str, Field(min_length=1, max_length=100)]
    kind: Literal["llm_judge", "code", "human"]
    version: NotRequired[Annotated[str, Field(min_length=1, max_length=64)]]
    rater: NotRequired[Annotated[str, Field(min_length=1, max_length=150)]]
    mode: NotRequired[Literal["blind", "assisted"]]
    overall: NotRequired[float | None]
    passed: NotRequired[bool | None]
    rationale: NotRequired[str]
    criteria: NotRequired[dict[str, CriterionShape]]


class MessageShape(TypedDict):
    """One entry of a transcript: other fields (tool_calls, thinking, ...) are kept as they are."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]
    role: Annotated[str, Field(min_length=1)]
    content: str
    name: NotRequired[str]


class LineShape(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    external_id: Annotated[str, Field(min_length=1, max_length=255)]
    task: Annotated[str, Field(min_length=1, max_length=63)]
    prompt: NotRequired[str]
    variant: NotRequired[Annotated[str, Field(min_length=1, max_length=100)]]
    model: NotRequired[Annotated[str, Field(max_length=200)]]
    content: NotRequired[str]
    content_missing: NotRequired[Annotated[str, Field(min_length=1, max_length=500)]]
    format: NotRequired[Literal["markdown", "python", "text"]]
    reference: NotRequired[str]
    transcript: NotRequired[list[MessageShape]]
    metadata: NotRequired[dict[str, Any]]
    grades: NotRequired[Annotated[list[GradeShape], Field(max_length=MAX_GRADES)]]


LINE = TypeAdapter(LineShape)
LINE_FIELDS = tuple(LineShape.__annotations__)
GRADE_FIELDS = tuple(GradeShape.__annotations__)
CRITERION_FIELDS = tuple(CriterionShape.__annotations__)
EVIDENCE_FIELDS = tuple(EvidenceShape.__annotations__)

MUST_BE = {
    "string_type": "text",
    "float_type": "a number",
    "int_type": "a whole number",
    "greater_than_equal": "1 or more",
    "bool_type": "true or false",
    "dict_type": "an object",
    "list_type": "a list",
}


def shape_problems(data: Any) -> list[tuple[str, str]]:
    """What is wrong with a line's shape, as (field, reason)."""
    if found := _too_big(data):
        return found
    try:
        LINE.validate_python(data)
    except ValidationError as error:
        return [(field_path(e["loc"]), _reason(e)) for e in error.errors(include_url=False)]
    return []


def _too_big(data: Any) -> list[tuple[str, str]]:
    """What would make pydantic list millions of errors for one line is told in one."""
    if not isinstance(data, dict):
        return [("", f'is {show(data)}, must be an object like {{"external_id": …, "task": …}}')]
    if len(data) > len(LINE_FIELDS):
        return _unknown(data, LINE_FIELDS, "")
    grades = data.get("grades")
    if not isinstance(grades, list):
        return []
    if len(grades) > MAX_GRADES:
        return [("grades", f"has {len(grades):,} entries, allowed: at most {MAX_GRADES:,}")]
    for i, grade in enumerate(grades):
        if not isinstance(grade, dict):
            continue
        if len(grade) > len(GRADE_FIELDS):
            return _unknown(grade, GRADE_FIELDS, f"grades[{i}].")
        criteria = grade.get("criteria")
        if isinstance(criteria, dict) and len(criteria) > MAX_CRITERIA:
            return [(f"grades[{i}].criteria", f"has {len(criteria):,} entries, allowed: at most {MAX_CRITERIA:,}")]
    return []


def _unknown(data: dict[str, Any], allowed: Sequence[str], prefix: str) -> list[tuple[str, str]]:
    unknown = [key for key in data if key not in allowed][:5]
    return [(prefix + key[:100], f"is not a known field, allowed: {', '.join(allowed)}") for key in unknown]


def field_path(loc: Sequence[str | int]) -> str:
    """grades[0].criteria.fluency.score"""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{str(part)[:100]}"
    return path


def _reason(error: Any) -> str:
    kind, seen, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is missing, it is required"
    if kind == "extra_forbidden":
        # by how deep it lies: external_id, grades[0].kind, grades[0].criteria.fluency.score, ...evidence[0].text
        allowed = {1: LINE_FIELDS, 3: GRADE_FIELDS, 5: CRITERION_FIELDS, 7: EVIDENCE_FIELDS}[len(error["loc"])]
        return f"is not a known field, allowed: {', '.join(allowed)}"
    if kind == "literal_error":
        return f"is {show(seen)}, allowed: {context['expected'].replace(chr(39), chr(34))}"
    if kind == "string_too_short":
        return "is empty, it must not be"
    if kind == "string_too_long":
        return f"has {len(seen):,} characters, allowed: at most {context['max_length']}"
    if kind in MUST_BE:
        return f"is {show(seen)}, must be {MUST_BE[kind]}"
    return f"is {show(seen)}: {error['msg']}"
