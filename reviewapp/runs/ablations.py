"""Pass rates of a task by prompt variant, model or both: what the ablation page shows, as plain data.

Everything is made of the arrays that the calibration page has too (calibration/grades.py): the newest grade of the latest
version of each output. A judge's rate has Wilson's interval; beside it that of people alone, and corrected by their blind grades.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graders.calibration.arrays import Floats, Ints, mean_human
from graders.calibration.decision import majority
from graders.calibration.rates import wilson
from graders.calibration.weighted import weighted_mean
from reviewapp.calibration.figures import Figure, figure, missing
from reviewapp.calibration.grades import Grades, Outputs
from reviewapp.calibration.rates import pass_at_ks, pass_rate_group
from reviewapp.calibration.report import grades_of, remembered, sampling_text
from reviewapp.calibration.rows import CATEGORICAL
from reviewapp.calibration.target import Target, target_of
from reviewapp.models import Grade, Grader, Task, Variant

BY = ("variant", "model", "both")
KS = (1, 2, 5, 10)
MOST_GROUPS, MOST_EXAMPLES = 60, 200
NO_CATEGORY = "no category given"


@dataclass(frozen=True)
class Cell:
    """One criterion in one group. Pass or fail: the share that passes; scored: the mean, and where it lies on the scale."""

    key: str
    title: str
    is_binary: bool
    figure: Figure
    share: float | None


@dataclass(frozen=True)
class Group:
    """The outputs of one variant, one model, or both."""

    name: str
    variant: str
    model: str
    note: str
    n: int
    passes: int
    undecided: int
    rate: Figure
    people: Figure
    corrected: Figure
    pass_at_k: dict[str, Figure]
    target: Target
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Failure:
    """A way to fail: how many outputs did, and by group; `examples` are ids of outputs, newest first."""

    category: str
    n: int
    share: float
    by_group: tuple[int, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Ablation:
    groups: tuple[Group, ...]
    total: Group
    failures: tuple[Failure, ...]
    n_failed: int
    n_left_out: int  # outputs of groups beyond the most that are shown
    sampling: str  # how the labelled outputs were chosen


def ablation_of(task: Task, grader: Grader | None, by: str) -> Ablation:
    """From the cache, unless a grade or an output is new. `grader` None: people's blind grades."""
    name = f"ablation:{grader and grader.pk}:{by}:{task.band_low:g}:{task.band_high:g}"
    made: Ablation = remembered(task, name, lambda: make_ablation(task, grader, by))
    return made


def make_ablation(task: Task, grader: Grader | None, by: str) -> Ablation:
    grades = grades_of(task, grader, "blind")
    variants = {v.pk: v for v in Variant.objects.filter(task=task)}
    number, keys, left_out = group_numbers(grades.outputs, by)
    groups = [make_group(task, part_of(grades, number == i), key, variants, grader) for i, key in enumerate(keys)]
    order = sorted(range(len(groups)), key=lambda i: (-(groups[i].rate["value"] if groups[i].rate["value"] is not None else -1), i))
    place = {old: new for new, old in enumerate(order)}
    total = make_group(task, grades, (0, ""), variants, grader)
    failures, n_failed = read_failures(task, grader, grades, number, place)
    shown = tuple(groups[i] for i in order)
    return Ablation(shown, replace(total, name="All"), failures, n_failed, left_out, sampling_text(grades))


def group_numbers(outputs: Outputs, by: str) -> tuple[Ints, list[tuple[int, str]], int]:
    """The group of each output, -1 for none; the (variant id, model) of each group, 0 and "" where it has no part in it."""
    variant = outputs.variant if by != "model" else np.zeros(len(outputs), dtype=np.int64)
    models = outputs.model if by != "variant" else np.full(len(outputs), -1, dtype=np.int64)
    found, number = np.unique(np.stack([variant, models], axis=1), axis=0, return_inverse=True)
    number = number.reshape(-1)
    sizes = np.bincount(number, minlength=len(found))
    kept = np.sort(np.argsort(-sizes, kind="stable")[:MOST_GROUPS])
    place = np.full(len(found), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    keys = [(int(found[i][0]), outputs.models[found[i][1]] if found[i][1] >= 0 else "") for i in kept]
    return place[number], keys, int(sizes.sum() - sizes[kept].sum())


def part_of(grades: Grades, mask: np.ndarray) -> Grades:
    """The same arrays for some of the outputs."""
    outputs, design = grades.outputs, grades.design
    fields = {name: getattr(outputs, name)[mask] for name in ("id", "prompt", "variant", "length", "model")}
    is_mine = mask[grades.labelled]
    place = np.cumsum(mask) - 1
    return replace(
        grades,
        outputs=Outputs(**fields, models=outputs.models),
        clusters=grades.clusters[mask],
        labelled=place[grades.labelled[is_mine]],
        human=grades.human[is_mine],
        human_passed=grades.human_passed[is_mine],
        judge=grades.judge[mask],
        judge_passed=grades.judge_passed[mask],
        design=replace(
            design,
            is_counted=design.is_counted[is_mine],
            weights=None if design.weights is None else design.weights[is_mine],
            strata=None if design.strata is None else design.strata[mask],
        ),
    )


def make_group(task: Task, part: Grades, key: tuple[int, str], variants: dict[int, Variant], grader: Grader | None) -> Group:
    variant, model = variants.get(key[0]), key[1]
    human = majority(part.human_passed) if len(part.labelled) else np.empty(0)
    rates = pass_rate_group(part.judge_passed, human, part)
    verdicts = part.judge_passed if grader else human
    decided = verdicts[~np.isnan(verdicts)]
    rate = rates["raw"] if grader else rates["human"]
    corrected = rates["ppi"] if grader and len(part.labelled) else missing("no output here has a person's blind grade")
    n_graded = int((~np.isnan(part.judge)).any(axis=1).sum()) if grader else len(human)
    return Group(
        name=" · ".join(str(part_name) for part_name in (variant, model) if part_name) or "no name",
        variant=variant.name if variant else "",
        model=model,
        note=variant.description if variant else "",
        n=len(part.outputs),
        passes=int(decided.sum()),
        undecided=max(0, n_graded - len(decided)),
        rate=rate,
        people=rates["human"],
        corrected=corrected,
        pass_at_k=chances(verdicts, part.outputs if grader else _labelled(part)),
        target=target_of(task, corrected, rate, "judge" if grader else "people"),
        cells=tuple(criterion_cells(part, grader)),
    )


def _labelled(part: Grades) -> Outputs:
    fields = {name: getattr(part.outputs, name)[part.labelled] for name in ("id", "prompt", "variant", "length", "model")}
    return Outputs(**fields, models=part.outputs.models)


def chances(verdicts: Floats, outputs: Outputs) -> dict[str, Figure]:
    """Unbiased pass@k over the prompts; a variant whose prompt is the task's own is one prompt."""
    return pass_at_ks(verdicts, np.where(outputs.prompt > 0, outputs.prompt, -outputs.variant), KS)


def criterion_cells(part: Grades, grader: Grader | None) -> list[Cell]:
    cells = []
    for i, criterion in enumerate(part.criteria):
        if criterion.kind == CATEGORICAL:
            continue
        scores = part.judge[:, i] if grader else mean_human(part.human[:, :, i]) if len(part.labelled) else np.empty(0)
        is_known = ~np.isnan(scores)
        known = scores[is_known]
        low, high = criterion.scale_low, criterion.scale_high
        if criterion.kind == "binary":
            found = figure(wilson(int((known > (low + high) / 2).sum()), len(known)))
            cells.append(Cell(criterion.key, criterion.title, True, found, found["value"]))
            continue
        found = mean_of(known, (part.clusters if grader else part.clusters[part.labelled])[is_known], (low, high))
        share = None if found["value"] is None else (found["value"] - low) / (high - low)
        cells.append(Cell(criterion.key, criterion.title, False, found, share))
    return cells


def mean_of(scores: Floats, clusters: Ints, scale: tuple[float, float]) -> Figure:
    """Their mean, outputs of a prompt taken together."""
    if not len(scores):
        return missing("not defined, because no output is scored")
    return figure(weighted_mean(np.full(len(scores), np.nan), scores, scale, clusters=clusters))


def read_failures(
    task: Task, grader: Grader | None, grades: Grades, number: Ints, place: dict[int, int]
) -> tuple[tuple[Failure, ...], int]:
    """The ways in which outputs failed, the most common first. One query."""
    mode = {"mode": Grade.Mode.AUTOMATIC, "grader__name": grader.name, "grader__version": grader.version} if grader else {"mode": "blind"}
    rows = Grade.objects.filter(output__task=task, output__is_latest=True, retraction__isnull=True, **mode).order_by("id")
    newest = {pk: (passed, category) for pk, passed, category in rows.values_list("output_id", "passed", "failure_category").iterator(5000)}
    group = dict(zip(grades.outputs.id.tolist(), number.tolist(), strict=True))
    found: dict[str, list[int]] = defaultdict(list)
    for pk, (passed, category) in newest.items():
        if passed is False and pk in group:
            found[category or NO_CATEGORY].append(pk)
    n_failed = sum(map(len, found.values()))
    return tuple(
        Failure(name, len(ids), len(ids) / n_failed, _counts(ids, group, place), tuple(sorted(ids, reverse=True)[:MOST_EXAMPLES]))
        for name, ids in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    ), n_failed


def _counts(ids: Sequence[int], group: dict[int, int], place: dict[int, int]) -> tuple[int, ...]:
    counts = [0] * len(place)
    for pk in ids:
        if group[pk] in place:
            counts[place[group[pk]]] += 1
    return tuple(counts)


def as_json(task: Task, grader: Grader | None, by: str, made: Ablation) -> dict[str, Any]:
    """Every figure of the page, for a program."""
    names = [group.name for group in made.groups]
    return {
        "task": task.slug,
        "grader": grader and {"name": grader.name, "version": grader.version, "sha256": grader.sha256},
        "by": by,
        "target_band": [task.band_low, task.band_high],
        "sampling": made.sampling,
        "groups": [_group_json(group) for group in made.groups],
        "all": _group_json(made.total),
        "failures": [
            {
                "category": f.category,
                "n": f.n,
                "share": f.share,
                "by_group": dict(zip(names, f.by_group, strict=True)),
            }
            for f in made.failures
        ],
    }


def _group_json(group: Group) -> dict[str, Any]:
    return {
        **{name: getattr(group, name) for name in ("name", "variant", "model", "note", "n", "passes", "undecided", "rate", "people")},
        **{"corrected": group.corrected, "pass_at_k": group.pass_at_k, "band": group.target.word, "band_by": group.target.by},
        "criteria": {cell.key: {**cell.figure, "kind": "rate" if cell.is_binary else "mean"} for cell in group.cells},
    }
