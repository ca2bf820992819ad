"""A task's grades as arrays: which output, which criterion, which person. Seven queries, whatever the size."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from django.db.models import Exists, OuterRef
from django.db.models.functions import Coalesce

from graders.calibration.arrays import Floats, Ints
from reviewapp.calibration.rows import AUTOMATIC, Rows, numbered, read_rows, table_of
from reviewapp.models import Criterion, Grade, Grader, Output, Task, Variant
from reviewapp.queues.design import Design, read_design
from reviewapp.queues.gold import gold_pairs

MODES = ("blind", "assisted", "any")
GRADE_MODES = {
    "blind": (Grade.Mode.BLIND,),
    # An override is made over the judge's grade, so whoever makes it has seen that.
    "assisted": (Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE),
    "any": (Grade.Mode.BLIND, Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE, Grade.Mode.ADJUDICATION),
}


@dataclass(frozen=True)
class Outputs:
    """The latest version of each output of a task, a column a field; all (o,)."""

    id: Ints
    prompt: Ints  # 0 where there is none
    variant: Ints
    length: Floats
    model: Ints  # its place among the models
    models: tuple[str, ...]  # by name; "" is none

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class Grades:
    """Newest grades of the latest version of each output. NaN where there is none; verdicts are 1 and 0.

    Shapes: o outputs, l of them with a person's grade, p people, c criteria. A categorical value is its place among the
    criterion's values.
    """

    outputs: Outputs
    clusters: Ints  # (o,)
    people: tuple[str, ...]  # (p,)
    criteria: tuple[Criterion, ...]  # (c,)
    labelled: Ints  # (l,): places among the outputs, rising
    human: Floats  # (l, p, c)
    human_passed: Floats  # (l, p)
    judge: Floats  # (o, c)
    judge_passed: Floats  # (o,)
    # How the labelled outputs were chosen. Those that may be in no estimate are not among them.
    design: Design
    labelled_by_mode: dict[str, int]  # outputs with a person's grade of each of MODES


@dataclass(frozen=True)
class Facts:
    """The grades that count, a column a field; all (g,), in no order.

    `rater` is a place among `people`; for the judge it is their number.
    """

    people: tuple[str, ...]
    output: Ints
    rater: Ints
    passed: Floats
    scores: Floats  # (g, c)


def judges_of(task: Task) -> list[Grader]:
    """The newest version of each grader that graded the task's outputs, by name."""
    return sorted({g.name: g for g in judge_versions(task)}.values(), key=lambda g: g.name)


def judge_versions(task: Task) -> list[Grader]:
    """Every grader that graded the task's outputs, oldest first."""
    graded = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.AUTOMATIC, retraction__isnull=True)
    # By the task's rubrics, which the index of a grader's grades has: the first that is found is enough.
    of_grader = graded.filter(grader=OuterRef("pk"), rubric__in=list(task.rubrics.values_list("pk", flat=True)))
    return list(Grader.objects.filter(Exists(of_grader)).order_by("pk"))


def read_grades(task: Task, judge: Grader | None, mode: str) -> Grades:
    """Everything that a study of one judge needs. Files with one name and version are one judge."""
    outputs = _read_outputs(task)
    criteria = tuple(task.rubric.criteria.all()) if task.rubric else ()
    rows = read_rows(task, judge, GRADE_MODES["any"], criteria)
    facts = _facts_of(task, rows, mode, outputs)
    n_people = len(facts.people)
    by_people = facts.rater < n_people
    labelled, row = np.unique(facts.output[by_people], return_inverse=True)
    # One table for all: a row for each labelled output and person, then one for each output's judge.
    n_human = len(labelled) * n_people
    home = n_human + facts.output
    home[by_people] = row * n_people + facts.rater[by_people]
    passed, scores = np.full(n_human + len(outputs), np.nan), np.full((n_human + len(outputs), len(criteria)), np.nan)
    passed[home], scores[home] = facts.passed, facts.scores
    n_raters = np.bincount(row, minlength=len(labelled)).tolist()
    design = read_design(task, outputs.id, outputs.id[labelled], n_raters, with_adjudications=mode == "any")
    kept = design.is_counted
    return Grades(
        outputs=outputs,
        clusters=_clusters(task, outputs),
        people=facts.people,
        criteria=criteria,
        labelled=labelled[kept],
        human=scores[:n_human].reshape(len(labelled), n_people, len(criteria))[kept],
        human_passed=passed[:n_human].reshape(len(labelled), n_people)[kept],
        judge=scores[n_human:],
        judge_passed=passed[n_human:],
        design=design.counted(),
        labelled_by_mode={mode: len(np.unique(rows.output[_is_of(rows, mode)])) for mode in MODES},
    )


def _read_outputs(task: Task) -> Outputs:
    latest = Output.objects.filter(task=task, is_latest=True).order_by("id")
    given = latest.values_list("id", Coalesce("prompt_id", 0), Coalesce("variant_id", 0), "length", "model")
    rows = table_of(given, [*((name, np.int64) for name in ("id", "prompt", "variant")), ("length", np.float64), ("model", np.object_)])
    names, model = numbered(rows["model"])
    return Outputs(*(rows[name].copy() for name in ("id", "prompt", "variant", "length")), model, names)


def _clusters(task: Task, outputs: Outputs) -> Ints:
    """Outputs of one prompt are a cluster where prompts are a sample of many (an import gives each output its own).

    Where the prompts are the task's own few variants they are fixed, so outputs vary independently.
    """
    sampled = list(Variant.objects.filter(task=task, prompt="").values_list("id", flat=True))
    is_sampled = np.isin(outputs.variant, sampled) & (outputs.prompt > 0)
    return np.where(is_sampled, outputs.prompt, -outputs.id)


def _is_of(rows: Rows, mode: str) -> np.ndarray:
    """Whether people gave it, in a mode that this one of MODES stands for."""
    return np.isin(rows.mode, [GRADE_MODES["any"].index(one) for one in GRADE_MODES[mode]])


def _facts_of(task: Task, rows: Rows, mode: str, outputs: Outputs) -> Facts:
    """Of each person and output, and of the judge, the newest grade. What people gave as gold is left out."""
    rows = rows.only(_is_of(rows, mode) | (rows.mode == AUTOMATIC))
    at = np.searchsorted(outputs.id, rows.output)
    counted = np.flatnonzero(_is_counted(rows, outputs.id, at, gold_pairs(task)))
    order = counted[np.argsort(rows.grade[counted])]
    people = tuple(sorted({rows.names[place] for place in np.unique(rows.who[order]).tolist()} - {""}))
    code = {name: i for i, name in enumerate((*people, ""))}
    rater = np.array([code.get(name, -1) for name in rows.names], dtype=np.int64)[rows.who[order]]
    cells, newest = at[order] * len(code) + rater, np.full(len(outputs) * len(code), -1, dtype=np.int64)
    newest[cells] = order  # of several assignments the last one stays
    found = np.flatnonzero(newest >= 0)
    kept = newest[found]
    return Facts(people, found // len(code), found % len(code), rows.passed[kept], rows.scores[kept])


def _is_counted(rows: Rows, outputs: Ints, at: Ints, gold: Collection[tuple[int, str]]) -> np.ndarray:
    """Not as gold, and of an output (at this place) that was there when outputs were read."""
    is_there = np.append(outputs, -1)[at] == rows.output
    if gold:
        is_there &= [(output, rows.names[who]) not in gold for output, who in zip(rows.output.tolist(), rows.who.tolist(), strict=True)]
    return is_there
