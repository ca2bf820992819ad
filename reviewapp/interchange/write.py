"""Write planned outputs and grades, a batch at a time, inside the importer's transaction."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson
from django.db import connection
from django.db.models import F
from django.utils import timezone

import tasks.task as spec
from reviewapp.catalog.sync import save_grader, save_variant
from reviewapp.interchange.bulk import as_time, insert_rows, reserve_ids
from reviewapp.interchange.plan import Planned
from reviewapp.interchange.records import GradeRecord, Record
from reviewapp.models import CriterionScore, Grade, Grader, Output, OutputBody, Prompt, Run, Task, User, Variant
from reviewapp.rewards import labels

OUTPUT_FIELDS = (
    "id", "task", "variant", "prompt", "run", "external_id", "version", "is_latest", "content_hash", "model", "format",
    "length", "content_missing", "is_sample", "metadata", "created_at", *labels.SUMMARY_FIELDS,
)  # fmt: skip
BODY_FIELDS = ("output", "content", "reference", "transcript")
GRADE_FIELDS = (
    "id", "output", "grader", "rubric", "mode", "rater_name", "overall", "passed", "unscored_reason", "rationale",
    "failure_category", "run_log", "key", "created_at",
)  # fmt: skip
SCORE_FIELDS = ("grade", "criterion", "score", "value", "passed", "unscored_reason", "rationale", "evidence")
KEPT_PROMPTS = 5000


@dataclass
class _Target:
    """A task with what its lines need over and over."""

    task: Task
    rubric: spec.Rubric
    # (key, id, the middle of its scale if it is binary)
    criteria: list[tuple[str, int, float | None]]
    variants: list[Variant]
    prompt_ids: dict[bytes, int] = field(default_factory=dict)


class Writer:
    """Holds what stays the same from batch to batch: ids of tasks, graders, prompts, and the run."""

    def __init__(self, tasks: Iterable[Task], *, title: str, user: User | None, sample: bool) -> None:
        self._targets = {task.slug: _target(task) for task in tasks}
        self._title, self._user, self._sample = title, user, sample
        self._graders: dict[tuple[str, str, str], Grader] = {}
        self._now = as_time(timezone.now())
        self._graded = array("q")  # outputs that were there and got grades
        self._written: set[int] = set()  # tasks with something new
        self.run: Run | None = None

    def write(self, plans: Sequence[Planned]) -> None:
        new = [p for p in plans if p.output_id is None]
        for plan, output_id in zip(new, reserve_ids(Output, len(new)), strict=True):
            plan.output_id = output_id
        graded = [p for p in plans if p.new_grades]
        grades = list(self._grades(graded))
        facts = _facts_by_output(grades)
        self._note(new, graded)
        if replaced := [p.replaces for p in new if p.replaces is not None]:
            Output.objects.filter(pk__in=replaced).update(is_latest=False)
        prompts = self._prompts(new)
        insert_rows(Output, OUTPUT_FIELDS, [self._output_row(p, prompts, facts.get(p.output_id, ())) for p in new])
        insert_rows(OutputBody, BODY_FIELDS, [(p.output_id, p.record.content, p.record.reference, p.record.transcript) for p in new])
        insert_rows(Grade, GRADE_FIELDS, [self._grade_row(g) for g in grades])
        insert_rows(CriterionScore, SCORE_FIELDS, chain.from_iterable(_score_rows(g) for g in grades))

    def finish(self) -> None:
        """Relabel outputs that were there and got grades, and move on the revisions."""
        ids = sorted(set(self._graded))
        if connection.features.has_select_for_update:
            # All outputs before any task, the order in which everyone else locks them.
            for start in range(0, len(ids), 1000):
                rows = Output.objects.filter(pk__in=ids[start : start + 1000]).order_by("pk")
                list(rows.select_for_update(no_key=True).values_list("pk"))
        labels.refresh(ids)
        Task.objects.filter(pk__in=self._written).update(revision=F("revision") + 1)

    def _note(self, new: Sequence[Planned], graded: Sequence[Planned]) -> None:
        if new and self.run is None:
            kind = Run.Kind.SAMPLE if self._sample else Run.Kind.IMPORT
            self.run = Run.objects.create(kind=kind, title=self._title[:200], created_by=self._user)
        mine = {p.output_id for p in new}
        self._graded.extend(p.output_id for p in graded if p.output_id not in mine)
        self._written.update(self._targets[p.record.task].task.pk for p in chain(new, graded))

    # --- outputs ---

    def _output_row(self, plan: Planned, prompts: dict[int, int], facts: Sequence[labels.GradeFact]) -> tuple[Any, ...]:
        record, target = plan.record, self._targets[plan.record.task]
        summary = labels.summarise(facts, target.task.primary_grader)
        return (
            plan.output_id, target.task.id, _variant(target, record).id, prompts.get(plan.output_id), self.run.id,
            record.external_id, plan.version, True, record.content_hash, record.model, record.format or target.task.output_format,
            len(record.content), record.content_missing, self._sample, record.metadata, self._now,
            *(getattr(summary, name) for name in labels.SUMMARY_FIELDS),
        )  # fmt: skip

    def _prompts(self, new: Sequence[Planned]) -> dict[int, int]:
        """output id -> prompt id. A line without a prompt has its variant's, if that has one."""
        wanted: dict[str, dict[bytes, str]] = {}
        places: list[tuple[int, str, bytes]] = []
        for plan in new:
            record = plan.record
            if text := record.prompt or _variant(self._targets[record.task], record).prompt:
                sha256 = hashlib.sha256(text.encode()).digest()
                wanted.setdefault(record.task, {})[sha256] = text
                places.append((plan.output_id, record.task, sha256))
        ids = {slug: _prompt_ids(self._targets[slug], texts) for slug, texts in wanted.items()}
        return {output_id: ids[slug][sha256] for output_id, slug, sha256 in places}

    # --- grades ---

    def _grades(self, plans: Sequence[Planned]) -> Iterator[_NewGrade]:
        ids = iter(reserve_ids(Grade, sum(len(p.new_grades) for p in plans)))
        for plan in plans:
            target = self._targets[plan.record.task]
            for key, record in plan.new_grades.items():
                grader = self._grader(record.grader)
                if not record.is_human and not target.task.primary_grader:
                    target.task.primary_grader = grader.name
                    target.task.save(update_fields=["primary_grader"])
                yield _NewGrade(next(ids), plan.output_id, key, record, grader, target)

    def _grader(self, name_version_kind: tuple[str, str, str]) -> Grader:
        if name_version_kind not in self._graders:
            self._graders[name_version_kind] = save_grader(*name_version_kind, is_sample=self._sample)
        return self._graders[name_version_kind]

    def _grade_row(self, grade: _NewGrade) -> tuple[Any, ...]:
        record = grade.record
        passed = None if grade.passed is None else int(grade.passed)  # sqlite3 binds whole numbers faster than booleans
        rater = record.rater if record.is_human else ""
        return (
            grade.id, grade.output_id, grade.grader.id, grade.target.task.rubric_id, record.mode, rater, grade.overall,
            passed, grade.unscored_reason, record.rationale, "", "{}", grade.key, self._now,
        )  # fmt: skip


@dataclass(slots=True)
class _NewGrade:
    """A grade with its ids; overall and pass follow from the criteria where the line leaves them out."""

    id: int
    output_id: int
    key: str
    record: GradeRecord
    grader: Grader
    target: _Target
    overall: float | None = None
    passed: bool | None = None
    unscored_reason: str = ""

    def __post_init__(self) -> None:
        record, rubric = self.record, self.target.rubric
        self.overall, self.passed = record.overall, record.passed
        if self.overall is None or self.passed is None:
            scores = {key: c["score"] for key, c in record.criteria.items() if not isinstance(c["score"], str)}
            if self.overall is None:
                self.overall = spec.weighted_overall(rubric, scores)
            if self.passed is None:
                self.passed = spec.is_pass(rubric, scores, self.overall)
        self.unscored_reason = "" if self.overall is not None else _why_unscored(record)


def _why_unscored(record: GradeRecord) -> str:
    given = [c["score"] for c in record.criteria.values() if c["score"] is not None]
    if not given:
        return "not_given"
    return "not_numeric" if all(isinstance(score, str) for score in given) else "undecided"


def _score_rows(grade: _NewGrade) -> Iterator[tuple[Any, ...]]:
    """In the rubric's order."""
    given, grade_id = grade.record.criteria, grade.id
    for key, criterion_id, middle in grade.target.criteria:
        row = given.get(key)
        if row is None:
            continue
        score, value, passed = row["score"], "", None
        if isinstance(score, str):
            score, value = None, score
        elif middle is not None and score is not None:
            passed = score > middle
        reason = "" if score is not None or value else "not_given"
        evidence = orjson.dumps(row["evidence"]).decode() if "evidence" in row else "[]"
        yield grade_id, criterion_id, score, value, passed, reason, row["rationale"], evidence


def _facts_by_output(grades: Iterable[_NewGrade]) -> dict[int, list[labels.GradeFact]]:
    facts: dict[int, list[labels.GradeFact]] = {}
    for g in grades:
        told = (g.id, g.output_id, g.grader.name, g.grader.kind, g.record.mode, g.record.rater, g.overall, g.passed)
        fact = labels.GradeFact(*told, version=g.grader.version)
        facts.setdefault(g.output_id, []).append(fact)
    return facts


def _target(task: Task) -> _Target:
    criteria = [(c.key, c.pk, (c.scale_low + c.scale_high) / 2 if c.kind == "binary" else None) for c in task.rubric.criteria.all()]
    # The current version of a variant before older ones, newer before older.
    variants = list(task.variants.order_by("-is_current", "-version"))
    return _Target(task, task.rubric.spec, criteria, variants)


def _variant(target: _Target, record: Record) -> Variant:
    """The version with the line's prompt if there is one, else the current one; made when the name is new."""
    named = [v for v in target.variants if v.name == record.variant]
    if not named:
        named = [save_variant(target.task, spec.Variant(name=record.variant, prompt=""))]
        target.variants += named
    return next((v for v in named if v.prompt == record.prompt), named[0])


def _prompt_ids(target: _Target, texts: dict[bytes, str]) -> dict[bytes, int]:
    """sha256 -> prompt id, made where it is new."""
    known = target.prompt_ids
    if len(known) > KEPT_PROMPTS:
        known.clear()
    if missing := [sha256.hex() for sha256 in texts if sha256 not in known]:
        rows = Prompt.objects.filter(task=target.task, sha256__in=missing).values_list("sha256", "pk")
        known.update((bytes.fromhex(sha256), pk) for sha256, pk in rows)
    new = [sha256 for sha256 in texts if sha256 not in known]
    known.update(zip(new, reserve_ids(Prompt, len(new)), strict=True))
    insert_rows(Prompt, ("id", "task", "sha256", "text"), [(known[s], target.task.pk, s.hex(), texts[s]) for s in new])
    return {sha256: known[sha256] for sha256 in texts}
