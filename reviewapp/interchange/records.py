"""A checked line as a Record: defaults filled in, and the two hashes that make a second import a no-op.

Content hash: of what the line says of the output (content, format, prompt, reference, transcript, model, variant,
content_missing), so that a later change of the task's own prompt or format makes no new version.
Grade key: of all that the line says of the grade.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

SORTED = orjson.OPT_SORT_KEYS


class GradeRecord(NamedTuple):
    grader: tuple[str, str, str]  # name, version, kind
    # automatic unless a person graded; what a line says of a judge's mode has no meaning and is read past.
    mode: str
    rater: str
    overall: float | None
    passed: bool | None
    rationale: str
    # criterion key -> {"score": ..., "rationale": ...}
    criteria: Mapping[str, Mapping[str, Any]]

    @property
    def is_human(self) -> bool:
        return self.grader[2] == "human"


class Record(NamedTuple):
    line: int
    task: str
    external_id: str
    content_hash: str
    variant: str
    prompt: str
    model: str
    content: str
    content_missing: str
    format: str  # empty: the task's
    reference: str
    transcript: str  # JSON
    metadata: str  # JSON
    raw_grades: Sequence[dict[str, Any]]

    def grades(self) -> dict[str, GradeRecord]:
        """By key. Of two equal grades in one line one is kept: they are the same fact."""
        return dict(map(_keyed_grade, self.raw_grades))


def record_of(line: int, data: Mapping[str, Any]) -> Record:
    """The record of a line whose shape is right. Raises TypeError when a part is nested over 250 levels deep."""
    get = data.get
    content, reference, prompt = get("content", ""), get("reference", ""), get("prompt", "")
    variant, model, form, missing = get("variant", "default"), get("model", ""), get("format", ""), get("content_missing", "")
    transcript = get("transcript") or []
    facts = [content, form, prompt, reference, transcript, model, variant, missing]
    return Record(
        line,
        data["task"],
        data["external_id"],
        hashlib.sha256(orjson.dumps(facts, option=SORTED)).hexdigest(),
        variant,
        prompt,
        model,
        content,
        missing,
        form,
        reference,
        orjson.dumps(transcript).decode() if transcript else "[]",
        orjson.dumps(get("metadata") or {}).decode(),
        get("grades", ()),
    )


def _keyed_grade(data: Mapping[str, Any]) -> tuple[str, GradeRecord]:
    get = data.get
    is_human = data["kind"] == "human"
    overall = get("overall")
    criteria = get("criteria") or {}
    for given in criteria.values():
        # 4 and 4.0 are one number, and no rationale is an empty one, whoever wrote the file.
        if type(given["score"]) is int:
            given["score"] = float(given["score"])
        given.setdefault("rationale", "")
    record = GradeRecord(
        (data["grader"], get("version", "1"), data["kind"]),
        get("mode", "blind") if is_human else "automatic",
        get("rater", data["grader"] if is_human else ""),
        None if overall is None else float(overall),
        get("passed"),
        get("rationale", ""),
        criteria,
    )
    return "import:" + hashlib.sha256(orjson.dumps(tuple(record), option=SORTED)).hexdigest()[:48], record


def merged(first: Record, again: Record) -> Record:
    """The same output on two lines: its grades together."""
    return first._replace(raw_grades=[*first.raw_grades, *again.raw_grades])
