"""The figures of the home page: the seed's summary table, alive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from django.core.cache import cache
from django.db.models import Count, Max, Q

from graders.calibration.agreement import weighted_kappa
from graders.calibration.inference import corrected_rate, human_rate
from graders.calibration.rates import wilson
from graders.calibration.result import Estimate
from graders.calibration.weighted import weighted_rate
from reviewapp.calibration.figures import figure
from reviewapp.calibration.target import Target, target_of
from reviewapp.models import Grade, Grader, Output, Skip, Task, User
from reviewapp.queues.design import Design, read_design
from reviewapp.queues.gold import gold_pairs
from reviewapp.rewards.labels import is_llm_judge, majority

# Above this many outputs a summary is allowed to be this old, so that one new grade does not recount them all.
LARGE_TASK = 5_000
LARGE_TASK_MAX_AGE_S = 300
RESAMPLED_PAIRS = 2_000_000
# With fewer, kappa says more of chance than of the judge.
FEWEST_FOR_KAPPA = 5


@dataclass(frozen=True)
class GraderRate:
    """How often one grader passes the task's outputs. `undecided` outputs are not in the rate."""

    grader: Grader
    estimate: Estimate
    undecided: int


@dataclass(frozen=True)
class TaskSummary:
    """One row of the table. Rates are on [0, 1]; `health` is a kappa on [-1, 1]."""

    n_outputs: int
    n_samples: int
    n_labelled: int
    rates: tuple[GraderRate, ...]
    judge: Grader | None
    people: Estimate
    corrected: Estimate
    sampling: str  # how the labelled outputs were chosen
    health: Estimate
    health_word: str
    target: Target


def task_summaries() -> list[tuple[Task, TaskSummary]]:
    return [(task, summary_of(task)) for task in Task.objects.select_related("rubric").order_by("slug")]


def summary_of(task: Task) -> TaskSummary:
    """The task's summary, cached by its revision."""
    key = f"home:{task.pk}:{task.revision}:{task.rubric_id}"
    summary: TaskSummary | None = cache.get(key) or cache.get(f"home:{task.pk}:large")
    if summary is None:
        summary = summarise_task(task)
        is_large = summary.n_outputs > LARGE_TASK
        cache.set(f"home:{task.pk}:large" if is_large else key, summary, LARGE_TASK_MAX_AGE_S if is_large else 3600)
    return summary


def summarise_task(task: Task) -> TaskSummary:
    counts = Output.objects.filter(task=task, is_latest=True).aggregate(
        n=Count("id"), samples=Count("id", filter=Q(is_sample=True)), labelled=Count("id", filter=~Q(label_state="none"))
    )
    verdicts = automatic_verdicts(task)
    graders = Grader.objects.in_bulk(verdicts.keys())
    judge = pick_judge(graders.values(), task.primary_grader)
    humans = blind_human_grades(task)
    judged = verdicts.get(judge.pk, {}) if judge else {}
    clusters = prompt_clusters(task)
    design = read_design(task, np.array(list(judged)), np.array(list(humans), dtype=np.int64), [len(grades) for grades in humans.values()])
    humans = {pk: grades for (pk, grades), is_counted in zip(humans.items(), design.is_counted, strict=True) if is_counted}
    design = design.counted()
    rates = tuple(_grader_rate(graders[pk], by_output) for pk, by_output in sorted(verdicts.items(), key=lambda kv: graders[kv[0]].name))
    people, corrected = _people_alone(humans, clusters, design), _corrected(judged, humans, clusters, design)
    health = _health(task, judged, humans, clusters)
    return TaskSummary(
        n_outputs=counts["n"],
        n_samples=counts["samples"],
        n_labelled=counts["labelled"],
        rates=rates,
        judge=judge,
        people=people,
        corrected=corrected,
        sampling="All outputs are labelled." if len(humans) == counts["n"] else design.text,
        health=health,
        health_word=_health_word(health),
        target=target_of(task, figure(corrected), figure(_alone(rates, judge, people)), "judge" if judge else "people"),
    )


def left_to_review(user: User, n_outputs: int) -> int:
    """Outputs that this reviewer has neither graded nor skipped."""
    graded = Grade.objects.filter(rater=user, output__is_latest=True).values("output").distinct().count()
    skipped = Skip.objects.filter(reviewer=user, output__is_latest=True).count()
    return max(0, n_outputs - graded - skipped)


Verdict = tuple[float | None, bool | None]


def automatic_verdicts(task: Task) -> dict[int, dict[int, Verdict]]:
    """grader id -> output id -> (overall, passed) of its newest grade, over the latest version of each output."""
    grades = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.AUTOMATIC, retraction__isnull=True)
    found: dict[int, dict[int, Verdict]] = defaultdict(dict)
    for grader_id, output_id, overall, passed in (
        grades.order_by("id").values_list("grader_id", "output_id", "overall", "passed").iterator(5000)
    ):
        found[grader_id][output_id] = (overall, passed)
    return found


def pick_judge(graders: Any, primary: str) -> Grader | None:
    """The version of the primary grader that was promoted, else its newest, else the newest grader; a code grader only if no
    judge is primary."""
    return max(graders, key=lambda g: (g.rank_for(primary), not is_llm_judge(primary) or g.kind != Grader.Kind.CODE, g.pk), default=None)


def blind_human_grades(task: Task) -> dict[int, list[Verdict]]:
    """output id -> (overall, passed) of each rater's blind grade. What was made after seeing the judge is left out, and gold."""
    grades = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.BLIND, retraction__isnull=True)
    newest = grades.values("output_id", "rater_name").annotate(newest=Max("id")).values("newest")
    found: dict[int, list[Verdict]] = defaultdict(list)
    gold = gold_pairs(task)
    for output_id, name, overall, passed in Grade.objects.filter(pk__in=newest).values_list("output_id", "rater_name", "overall", "passed"):
        if (output_id, name) not in gold:
            found[output_id].append((overall, passed))
    return found


def prompt_clusters(task: Task) -> dict[int, int]:
    """output id -> prompt id, where prompts are a sample of many (an import gives each output its own).

    Empty where the prompts are the task's own few variants: they are fixed, so outputs vary independently.
    """
    sampled = Output.objects.filter(task=task, is_latest=True, variant__prompt="", prompt__isnull=False)
    return dict(sampled.values_list("id", "prompt_id"))


def _grader_rate(grader: Grader, by_output: dict[int, Verdict]) -> GraderRate:
    decided = [passed for _, passed in by_output.values() if passed is not None]
    return GraderRate(grader, wilson(sum(decided), len(decided)), len(by_output) - len(decided))


def _alone(rates: Iterable[GraderRate], judge: Grader | None, people: Estimate) -> Estimate:
    """The judge's own rate; people's where no judge graded the task."""
    return next((rate.estimate for rate in rates if rate.grader == judge), people)


def _corrected(judged: dict[int, Verdict], humans: dict[int, list[Verdict]], clusters: dict[int, int], design: Design) -> Estimate:
    """The pass rate had people graded all: the judge's, corrected by the outputs that both graded.

    `design` is how the outputs in `humans` were chosen.
    """
    by_people = {pk: majority(passed for _, passed in grades) for pk, grades in humans.items()}
    by_judge = {pk: passed for pk, (_, passed) in judged.items() if passed is not None}
    if design.weights is not None:
        weight = dict(zip(humans, design.weights, strict=True))
        strata = None if design.strata is None else dict(zip(judged, design.strata.tolist(), strict=True))
        graded = [*by_judge, *(() if strata else by_people.keys() - by_judge.keys())]  # a stratum is one of the judge's scores
        return weighted_rate(
            [by_judge.get(pk) for pk in graded],
            [by_people.get(pk) for pk in graded],
            None if strata else [weight.get(pk) for pk in graded],
            strata=strata and [strata[pk] for pk in graded],
            clusters=[clusters.get(pk, -pk) for pk in graded],
        )
    decided = [pk for pk, passed in by_people.items() if passed is not None]
    return corrected_rate(
        np.array(list(by_judge.values()), dtype=float),
        np.array([by_judge.get(pk) for pk in decided], dtype=float),
        np.array([by_people[pk] for pk in decided], dtype=float),
        clusters_all=[clusters.get(pk, -pk) for pk in by_judge],
        clusters_labelled=[clusters.get(pk, -pk) for pk in decided],
    )


def _people_alone(humans: dict[int, list[Verdict]], clusters: dict[int, int], design: Design) -> Estimate:
    """The pass rate of what people labelled, by their majority, without the judge."""
    verdicts = [majority(passed for _, passed in grades) for grades in humans.values()]
    prompts = [clusters.get(pk, -pk) for pk in humans]
    if design.weights is not None:
        return weighted_rate([None] * len(verdicts), verdicts, design.weights.tolist(), clusters=prompts)
    return human_rate(verdicts, clusters=prompts)


def _health(task: Task, judged: dict[int, Verdict], humans: dict[int, list[Verdict]], clusters: dict[int, int]) -> Estimate:
    """Quadratic-weighted kappa of judge and median human: of the scores, or of pass and fail for a code task."""
    if task.rubric is None:
        return Estimate.missing("not defined, because the task has no rubric")
    column = 1 if task.rubric.pass_rule == "count" else 0
    pairs = {}
    for pk, grades in humans.items():
        seen = [g[column] for g in grades if g[column] is not None]
        if seen and pk in judged and judged[pk][column] is not None:
            pairs[pk] = (float(judged[pk][column]), float(median(seen)))
    if not pairs:
        return Estimate.missing("no blind human grade beside the judge's")
    if len(pairs) < FEWEST_FOR_KAPPA:
        return Estimate.missing(f"only {len(pairs)} graded blind, kappa needs {FEWEST_FOR_KAPPA}", n=len(pairs))
    labels = [0, 1] if column else list(range(int(task.rubric.scale_low), int(task.rubric.scale_high) + 1))
    judge, human = (np.array(scores) for scores in zip(*pairs.values(), strict=True))
    prompts = [clusters.get(pk, -pk) for pk in pairs]
    # The interval of many labels is narrow, and few resamples show it; of few labels many are cheap.
    n_boot = min(1000, max(100, RESAMPLED_PAIRS // len(pairs)))
    return weighted_kappa(judge, human, labels, rng=np.random.default_rng(0), clusters=prompts, n_boot=n_boot)


def _health_word(health: Estimate) -> str:
    """A word only where the interval decides it (bands of Landis and Koch 1977 at 0.4 and 0.6)."""
    if health.value is None or health.low is None or health.high is None:
        return ""
    if health.low >= 0.6:
        return "good"
    return "poor" if health.high < 0.4 else ""
