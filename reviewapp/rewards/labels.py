"""The label of an output, computed from its grades by a named policy. The only place that does so.

Rules, in order:
- a retracted grade does not count;
- of one person's grades of an output the newest counts (a revision or an override follows the blind grade);
- an adjudication beats every other human grade;
- humans: the score is the mean over raters, the verdict their majority (a tie is a conflict: no verdict);
- the judge is the task's primary grader (of that the promoted version), else the grader whose grade is newest; where an
  LLM judge is primary, a code grader beside it (citations) sees one criterion of several and labels nothing.

Calibration does not use these labels: it reads the blind grades themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import fsum, sqrt
from operator import attrgetter
from statistics import fmean
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import F

from reviewapp.models import Grade, Output, Task
from tasks.task import JUDGE

POLICIES = ("human-only", "human-then-calibrated", "judge-raw")
DEFAULT_POLICY = "human-then-calibrated"
AUTOMATIC, ADJUDICATION = Grade.Mode.AUTOMATIC.value, Grade.Mode.ADJUDICATION.value


# Made by the hundred thousand in an import or an export, where a named tuple costs a fifth of a frozen dataclass.
class GradeFact(NamedTuple):
    """What the rules need to know of a grade that is not retracted. `rater` is empty for graders."""

    id: int
    output_id: int
    grader: str
    kind: str
    mode: str
    rater: str
    overall: float | None
    passed: bool | None
    failure_category: str = ""
    version: str = ""

    @property
    def is_human(self) -> bool:
        return self.mode != AUTOMATIC


class Label(NamedTuple):
    """What a policy makes of an output's grades.

    `sd` is the standard deviation over raters (None under two), on the rubric's scale.
    `grade_ids` are the grades that it rests on.
    """

    score: float | None = None
    passed: bool | None = None
    source: str = ""
    sd: float | None = None
    n_raters: int = 0
    grade_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """The denormalised fields of Output, by the same names."""

    judge_score: float | None = None
    judge_passed: bool | None = None
    human_score: float | None = None
    human_passed: bool | None = None
    human_count: int = 0
    label_state: str = Output.LabelState.NONE
    label_source: str = ""
    label_score: float | None = None
    label_passed: bool | None = None
    disagreement: float | None = None
    failure_category: str = ""


NO_LABEL = Label()
_later: ContextVar[list[int] | None] = ContextVar("_later", default=None)
_id_of = attrgetter("id")
SUMMARY_FIELDS = tuple(Summary.__dataclass_fields__)


def human_label(facts: Sequence[GradeFact]) -> Label:
    """The people's label: adjudicated, or the raters' mean and majority."""
    by_people = [f for f in facts if f.mode != AUTOMATIC]
    if not by_people:
        return NO_LABEL
    if len(by_people) == 1:  # what follows comes to the same, for most outputs
        fact = by_people[0]
        source = "adjudicated" if fact.mode == ADJUDICATION else "human"
        return Label(fact.overall, fact.passed, source, None, 1, (fact.id,))
    newest = {f.rater: f for f in sorted(by_people, key=_id_of)}
    adjudications = [f for f in newest.values() if f.mode == ADJUDICATION]
    basis = [max(adjudications, key=_id_of)] if adjudications else list(newest.values())
    scores = [f.overall for f in basis if f.overall is not None]
    return Label(
        score=fmean(scores) if scores else None,
        passed=majority([f.passed for f in basis]),
        source="adjudicated" if adjudications else "human",
        sd=sample_sd(scores),
        n_raters=len(basis),
        grade_ids=tuple([f.id for f in basis]),
    )


def judge_label(facts: Sequence[GradeFact], primary_grader: str) -> Label:
    """The newest verdict of the primary grader, else of whichever grader is newest. Uncalibrated."""
    automatic = [f for f in facts if f.mode == AUTOMATIC and not (f.kind == "code" and is_llm_judge(primary_grader))]
    chosen = [f for f in automatic if f.grader == primary_grader] or _promoted(automatic, primary_grader) or automatic
    if not chosen:
        return NO_LABEL
    fact = chosen[0] if len(chosen) == 1 else max(chosen, key=_id_of)
    source = "code" if fact.kind == "code" else "judge"
    return Label(score=fact.overall, passed=fact.passed, source=source, n_raters=1, grade_ids=(fact.id,))


def is_llm_judge(primary_grader: str) -> bool:
    """Is it the judge that is asked here, in whatever version?"""
    return primary_grader.partition("@")[0] == JUDGE


def _promoted(automatic: Sequence[GradeFact], primary_grader: str) -> list[GradeFact]:
    """Those of the version named "name@version", else of any version of that name."""
    if "@" not in primary_grader:
        return []
    exact = [f for f in automatic if f"{f.grader}@{f.version}" == primary_grader]
    return exact or [f for f in automatic if primary_grader.startswith(f"{f.grader}@")]


def label_of(facts: Sequence[GradeFact], primary_grader: str, policy: str = DEFAULT_POLICY) -> Label:
    """The label by a policy; an empty Label (source "") when the policy has none for this output."""
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}, allowed: {', '.join(POLICIES)}")
    return choose_label(human_label(facts), judge_label(facts, primary_grader), policy)


def choose_label(human: Label, judge: Label, policy: str) -> Label:
    """The one of an output's two labels that the policy takes."""
    if policy == "judge-raw":
        return judge
    return human if human.source or policy == "human-only" else judge


def sample_sd(scores: Sequence[float]) -> float | None:
    """The sample's standard deviation, None under two; statistics.stdev is exact and 50 times slower."""
    if len(scores) < 2:
        return None
    mean = fmean(scores)
    return sqrt(fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))


def majority(verdicts: Iterable[bool | None]) -> bool | None:
    """The verdict of more than half of those who gave one; None on a tie or without any."""
    votes = [v for v in verdicts if v is not None]
    passes = sum(votes)
    if not votes or 2 * passes == len(votes):
        return None
    return 2 * passes > len(votes)


def summarise(facts: Sequence[GradeFact], primary_grader: str) -> Summary:
    """The fields that the outputs page lists and sorts by."""
    if not facts:
        return Summary()
    judge, human = judge_label(facts, primary_grader), human_label(facts)
    label = label_of(facts, primary_grader)
    by_id = {f.id: f for f in facts}
    failure = next((by_id[i].failure_category for i in (*human.grade_ids, *judge.grade_ids) if by_id[i].failure_category), "")
    summary = Summary(
        judge_score=judge.score,
        judge_passed=judge.passed,
        human_score=human.score,
        human_passed=human.passed,
        human_count=human.n_raters,
        label_state=_label_state(human, by_id),
        label_source=label.source,
        label_score=label.score,
        label_passed=label.passed,
        failure_category=failure,
    )
    if judge.score is None or human.score is None:
        return summary
    return replace(summary, disagreement=abs(judge.score - human.score))


def _label_state(human: Label, by_id: dict[int, GradeFact]) -> str:
    if not human.source:
        return Output.LabelState.NONE
    if human.source == "adjudicated":
        return Output.LabelState.ADJUDICATED
    verdicts = {by_id[i].passed for i in human.grade_ids} - {None}
    return Output.LabelState.CONFLICT if len(verdicts) > 1 else Output.LabelState.LABELLED


def read_facts(output_ids: Sequence[int]) -> dict[int, list[GradeFact]]:
    """The counting grades of these outputs, by output. One query."""
    rows = Grade.objects.filter(output_id__in=output_ids, retraction__isnull=True).values_list(
        "id", "output_id", "grader__name", "grader__kind", "mode", "rater_name", "overall", "passed", "failure_category", "grader__version"
    )
    facts: dict[int, list[GradeFact]] = defaultdict(list)
    for row in rows.order_by("id"):
        fact = GradeFact(*row)
        facts[fact.output_id].append(fact)
    return facts


@contextmanager
def refreshed_once() -> Iterator[None]:
    """Put the recomputing off to the end of the block, for all its outputs at once; it belongs into one transaction."""
    later: list[int] = []
    token = _later.set(later)
    try:
        yield
    finally:
        _later.reset(token)
    refresh(later)


def refresh(output_ids: Iterable[int]) -> None:
    """Recompute the summary fields of these outputs; call it in the transaction that adds the grades."""
    if (later := _later.get()) is not None:
        later.extend(output_ids)
        return
    ids = list(dict.fromkeys(output_ids))
    for start in range(0, len(ids), 500):
        _refresh_batch(ids[start : start + 500])


@transaction.atomic
def _refresh_batch(ids: Sequence[int]) -> None:
    locked = Output.objects.filter(pk__in=ids).select_related("task").only("id", "task__primary_grader")
    if connection.features.has_select_for_update:
        locked = locked.select_for_update(of=("self",), no_key=True)  # a grade added beside us holds KEY SHARE on its output
    outputs = list(locked.order_by("pk"))
    facts = read_facts(ids)
    for output in outputs:
        summary = summarise(facts.get(output.pk, ()), output.task.primary_grader)
        for name in SUMMARY_FIELDS:
            setattr(output, name, getattr(summary, name))
    if len(outputs) == 1:
        outputs[0].save(update_fields=SUMMARY_FIELDS)  # a third of the time of a bulk update of one
    else:
        Output.objects.bulk_update(outputs, SUMMARY_FIELDS)
    Task.objects.filter(pk__in={o.task_id for o in outputs}).update(revision=F("revision") + 1)
