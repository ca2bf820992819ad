"""Rubric and Criterion: by what an output is judged, the weighted score, and what a pass is.

A rubric is immutable and named by the hash of its content, so that a grade can point at the exact one it was
made with. How an output comes by its scores is not decided here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.fields import SLUG, TaskError, check_fields, number, read_toml, scale_of, texts, title_of

CriterionKind = Literal["numeric", "binary", "categorical"]
PassRule = Literal["overall", "count"]


def sha256_of(value: object) -> str:
    """Hash of a JSON-able value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Criterion:
    """One line of a rubric. `scale` is (lowest, highest); a categorical criterion has `values` instead."""

    key: str
    title: str
    description: str = ""
    weight: float = 1.0
    kind: CriterionKind = "numeric"
    scale: tuple[float, float] = (0.0, 10.0)
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rubric:
    """Criteria, their weights and what a pass is.

    pass_rule "overall": the weighted mean is at least `pass_threshold` (on `scale`).
    pass_rule "count": at least `min_passed` criteria are passed (categorical ones have no part).
    `requires_run`: a submission that was run and crashed fails, whatever the rule.
    """

    criteria: tuple[Criterion, ...]
    scale: tuple[float, float] = (0.0, 10.0)
    pass_rule: PassRule = "overall"
    pass_threshold: float | None = None
    min_passed: int | None = None
    requires_run: bool = False

    @property
    def sha256(self) -> str:
        return sha256_of(asdict(self))

    @property
    def needed(self) -> int:
        """How many criteria have to pass under pass_rule "count"."""
        return self.min_passed or sum(c.kind != "categorical" for c in self.criteria)

    def criterion(self, key: str) -> Criterion | None:
        return next((c for c in self.criteria if c.key == key), None)


# --- the weighted score -----------------------------------------------------------------------------------


def weighted_overall(rubric: Rubric, scores: Mapping[str, float | None]) -> float | None:
    """The overall score on the rubric's scale, or None while it is not determined.

    `scores`: criterion key -> score on the criterion's own scale (binary: its lowest or highest value);
    None or absent means unscored. Categorical criteria have no part in it.
    pass_rule "overall": the mean of the scored numeric criteria, each first brought to the rubric's scale,
    weighted by `weight`. pass_rule "count": the share of `min_passed` that is passed, on the rubric's scale;
    None while an undecided criterion could still change it.
    """
    low, high = rubric.scale
    if rubric.pass_rule == "count":
        passed, undecided = count_passed(rubric, scores)
        if undecided and passed < rubric.needed:
            return None
        return round(low + (high - low) * min(1.0, passed / rubric.needed), 4)
    total = weight = 0.0
    for criterion in rubric.criteria:
        score = scores.get(criterion.key)
        if criterion.kind == "categorical" or score is None:
            continue
        c_low, c_high = criterion.scale
        on_scale = score
        if criterion.scale != rubric.scale:
            on_scale = low + (score - c_low) / (c_high - c_low) * (high - low)
        total += criterion.weight * on_scale
        weight += criterion.weight
    return round(total / weight, 4) if weight else None


def count_passed(rubric: Rubric, scores: Mapping[str, float | None]) -> tuple[int, int]:
    """(passed, undecided) of all but the categorical criteria; a score in the upper half of its scale is a pass."""
    passed = undecided = 0
    for criterion in rubric.criteria:
        if criterion.kind == "categorical":
            continue
        score = scores.get(criterion.key)
        if score is None:
            undecided += 1
        elif score > sum(criterion.scale) / 2:
            passed += 1
    return passed, undecided


def is_pass(
    rubric: Rubric,
    scores: Mapping[str, float | None],
    overall: float | None,
    runs: bool | None = None,
) -> bool | None:
    """Pass, fail, or None when it is not determined. `runs` is None when nobody ran it (a person's grade)."""
    if rubric.requires_run and runs is False:
        return False
    if rubric.pass_rule == "count":
        passed, undecided = count_passed(rubric, scores)
        if passed >= rubric.needed:
            return True
        return False if passed + undecided < rubric.needed else None
    if overall is None or rubric.pass_threshold is None:
        return None
    return overall >= rubric.pass_threshold


# --- reading a rubric -------------------------------------------------------------------------------------


def load_rubric(path: Path) -> Rubric:
    """Read and check rubric.toml. Raises TaskError."""
    return parse_rubric(read_toml(path), str(path))


def parse_rubric(data: Mapping[str, Any], where: str) -> Rubric:
    """A Rubric out of parsed TOML; `where` opens each error message. Raises TaskError."""
    check_fields(data, {"task", "rubric", "criterion"}, where)
    head = data.get("rubric", {})
    if not isinstance(head, Mapping):
        raise TaskError(f"{where}: `rubric` is {head!r}, must be a [rubric] table")
    check_fields(head, {"scale", "pass_threshold", "pass_rule", "min_passed", "requires_run"}, f"{where} [rubric]")
    scale = scale_of(head.get("scale", [0, 10]), f"{where} [rubric] scale")
    rows = data.get("criterion", [])
    if not isinstance(rows, list) or not rows:
        raise TaskError(f"{where}: needs at least one [[criterion]]")
    criteria = tuple(_criterion(row, scale, f"{where} [[criterion]] {i}") for i, row in enumerate(rows, 1))
    _check_criteria(criteria, where)
    rule, threshold, min_passed = _pass_rule(head, scale, criteria, f"{where} [rubric]")
    requires_run = head.get("requires_run", False)
    if not isinstance(requires_run, bool):
        raise TaskError(f"{where} [rubric]: requires_run is {requires_run!r}, allowed: true, false")
    return Rubric(criteria, scale, rule, threshold, min_passed, requires_run)


def _pass_rule(
    head: Mapping[str, Any],
    scale: tuple[float, float],
    criteria: tuple[Criterion, ...],
    where: str,
) -> tuple[PassRule, float | None, int | None]:
    rule = head.get("pass_rule", "overall")
    if rule not in ("overall", "count"):
        raise TaskError(f"{where}: pass_rule is {rule!r}, allowed: overall, count")
    other = "pass_threshold" if rule == "count" else "min_passed"
    if other in head:
        raise TaskError(f'{where}: {other} has no meaning with pass_rule = "{rule}"')
    if rule == "count":
        countable = sum(c.kind != "categorical" for c in criteria)
        needed = head.get("min_passed", countable)
        if not isinstance(needed, int) or isinstance(needed, bool) or not 1 <= needed <= countable:
            raise TaskError(f"{where}: min_passed is {needed!r}, must be 1 to {countable}")
        return "count", None, needed
    if "pass_threshold" not in head:
        return "overall", None, None
    threshold = number(head["pass_threshold"], f"{where}: pass_threshold")
    if not scale[0] <= threshold <= scale[1]:
        raise TaskError(f"{where}: pass_threshold is {threshold}, must lie in the scale {list(scale)}")
    return "overall", threshold, None


def _check_criteria(criteria: tuple[Criterion, ...], where: str) -> None:
    keys = [c.key for c in criteria]
    if len(set(keys)) != len(keys):
        raise TaskError(f"{where}: criterion keys must differ, seen {keys}")
    weights = {c.key: c.weight for c in criteria if c.kind != "categorical"}
    if weights and sum(weights.values()) == 0:
        raise TaskError(f"{where}: every weight is 0 ({', '.join(weights)}), at least one must be above 0")


def _criterion(row: Any, scale: tuple[float, float], where: str) -> Criterion:
    if not isinstance(row, Mapping):
        raise TaskError(f"{where} is {row!r}, must be a table")
    check_fields(row, {"key", "title", "description", "weight", "kind", "scale", "values"}, where)
    key = str(row.get("key", ""))
    if not SLUG.fullmatch(key):
        raise TaskError(f"{where}: key is {key!r}, allowed: a-z, 0-9, _ and -, at most 63 characters")
    where = f"{where} ({key})"
    kind = row.get("kind", "numeric")
    if kind not in ("numeric", "binary", "categorical"):
        raise TaskError(f"{where}: kind is {kind!r}, allowed: numeric, binary, categorical")
    values = texts(row.get("values", []), f"{where}: values")
    if (kind == "categorical") != bool(values):
        seen = f"kind {kind!r}, values {list(values)}"
        raise TaskError(f'{where}: `values` belongs to kind = "categorical" and only to it, seen {seen}')
    if len(set(values)) != len(values):
        raise TaskError(f"{where}: values must differ, seen {list(values)}")
    weight = number(row.get("weight", 1.0), f"{where}: weight")
    if weight < 0:
        raise TaskError(f"{where}: weight is {weight}, must be 0 or more")
    return Criterion(
        key=key,
        title=title_of(row.get("title", key), where),
        description=str(row.get("description", "")).strip(),
        weight=weight,
        kind=kind,
        scale=scale_of(row.get("scale", scale), f"{where} scale"),
        values=values,
    )
