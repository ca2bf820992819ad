"""About the labels themselves: how they were drawn, what seeing the judge first does to them, and what more would bring.

And the judge's versions and time. It takes longer than the page may, so the page loads it after itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from graders.calibration import errors
from graders.calibration.arrays import Floats
from graders.calibration.planning import LabelPlan, plan_labels
from graders.calibration.resample import Resamples, bootstrap, mean_statistic
from graders.calibration.result import Estimate
from graders.calibration.sampling import Policy
from reviewapp.calibration.charts import Chart, group_chart
from reviewapp.calibration.drift import drift_of
from reviewapp.calibration.figures import NOT_A_SCALE, Figure, figure, in_points, missing
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.items import Items
from reviewapp.calibration.report import Question, all_labelled, draws_of, grades_of, remembered, scope_of
from reviewapp.calibration.sentences import Sentence
from reviewapp.calibration.study import DEFAULT_EPSILON, study, verdicts_of
from reviewapp.calibration.text_probes import MOST_CHARS_ON_PAGE, read_looks, text_group
from reviewapp.calibration.words import is_above, is_below, with_interval
from reviewapp.models import Grade, Grader, Task
from reviewapp.queues.design import UNKNOWN
from reviewapp.words import counted, number, points, version_word

TIME_BINS = 8
FEWEST_IN_BIN = 5
MOST_VERSIONS = 8
STUDIES = 20  # samples of each size, in the simulation of more labels


@dataclass(frozen=True)
class LabelFacts:
    """`more` is how many labels would halve the interval of the corrected rate, None where that is not known."""

    sentences: tuple[Sentence, ...]
    charts: dict[str, Chart]
    more: int | None = None
    texts: dict[str, Figure] = field(default_factory=dict)  # the bias probes that read the outputs


def label_facts(question: Question, versions: tuple[Grader, ...]) -> LabelFacts:
    judge = question.judge
    asked = f"labels:{judge and judge.pk}:{question.mode}:{question.criterion}:{len(versions)}"
    return remembered(question.task, asked, lambda: _make(question, versions))


def _make(question: Question, versions: tuple[Grader, ...]) -> LabelFacts:
    grades = grades_of(question.task, question.judge, question.mode)
    items, columns = scope_of(question, grades)
    plan, more = more_labels(question, grades, items, columns)
    texts = text_group(items, read_looks(grades, MOST_CHARS_ON_PAGE)) if question.judge and len(grades.labelled) else {}
    found = [drawn(question, grades, items), plan, anchoring(question, items), drifted(question, items), *steered(question, texts)]
    charts = {"versions": _versions_chart(question, versions), "time": _time_chart(question, items, grades)} if question.judge else {}
    return LabelFacts(tuple(s for s in found if s), {name: chart for name, chart in charts.items() if chart}, more, texts)


def drifted(question: Question, items: Items) -> Sentence | None:
    """From outputs that this version graded twice, whether it still scores as it did."""
    if question.judge is None or items.is_categorical:
        return None
    found = drift_of(question.task, question.judge, items.scale)
    if found is None:
        text = f"{question.judge} graded no output twice, so whether it still scores as it did can't be seen."
        return Sentence("Drift", "", text)
    shift = in_points(found.shift, items.scale)
    interval = f" The shift is {with_interval(shift)} points, on {counted(found.shift.n, 'output')}." if shift["ci"] else ""
    kind = {"drifted": "bad", "steady": "good"}.get(found.verdict, "unsure")
    return Sentence("Drift", kind, f"{question.judge}, graded again: {found.text}{interval}")


def steered(question: Question, texts: dict[str, Figure]) -> list[Sentence]:
    """What of the texts moves the judge, where the interval shows it."""
    who = {"formatting": "outputs with one standard deviation more formatting", "injection": "outputs that try to steer their judge"}
    return [
        Sentence("Influence", "bad", f"From {question.judge}, {who[name]} get {_size(found)} {way}, at equal human score.")
        for name, found in texts.items()
        for way, shows in (("more", is_above(found)), ("fewer", is_below(found)))
        if shows
    ]


def drawn(question: Question, grades: Grades, items: Items) -> Sentence:
    """How the labelled outputs were chosen, as far as it is recorded, and what every estimate takes for granted."""
    n_labelled, n_outputs = len(grades.labelled), len(grades.outputs)
    if not n_labelled:
        return Sentence("Sampling", "unsure", "No output is labelled in this mode.")
    if n_labelled == n_outputs:
        return Sentence("Sampling", "good", f"{all_labelled(n_outputs).rstrip('.')}: nothing hangs on how they were chosen.")
    head = f"{n_labelled:,} of {n_outputs:,} outputs count as labelled. "
    apart = _judge_on_labelled(grades, items)
    head += grades.design.text
    if apart is None:
        return Sentence("Sampling", "unsure", head)
    if apart["ci"] is None:
        return Sentence(
            "Sampling", "unsure", f"{head} The judge scores them and the others {points(apart['value'])} apart; {apart['why_missing']}."
        )
    if is_above(apart) or is_below(apart):
        head += f" The judge scores the labelled ones {_size(apart)} {'higher' if apart['value'] > 0 else 'lower'} than the others"
        if grades.design.weights is not None:
            return Sentence("Sampling", "", f"{head}, as it may where chances differ.")
        return Sentence("Sampling", "bad", f"{head}: a random sample would hardly come out so.")
    text = f"{head} The judge scores them and the others alike, {with_interval(apart)} points apart, as it would a random sample."
    return Sentence("Sampling", "unsure" if UNKNOWN in dict(grades.design.counts) else "good", text)


def more_labels(question: Question, grades: Grades, items: Items, columns: list[int]) -> tuple[Sentence | None, int | None]:
    """How many labels more would halve the interval of the corrected pass rate, and that number."""
    found = plans_of(question, grades, items, columns)
    if found is None:
        return None, None
    plan, other = found.random, found.stratified
    if plan.half_width is None:
        why = plan.why_missing.removeprefix("not defined, because ")
        return Sentence("More labels", "unsure", f"How many labels more would help can't be told yet, because {why}."), None
    head = f"{counted(found.n, 'label')} give the corrected pass rate to ±{_points_of(plan.half_width)}."
    if plan.labels_more is None:
        return Sentence("More labels", "", f"{head} All {found.n_outputs:,} labelled would leave ±{_points_of(plan.curve[-1][1])}."), None
    text = f"{head} About {_round_up(plan.labels_more):,} more, drawn at random, would halve that"
    if other.labels_more is not None and other.labels_more < 0.9 * plan.labels_more:
        text += f"; a stratified queue would take about {_round_up(other.labels_more):,}"
    return Sentence("More labels", "", f"{text} (simulated on these outputs)."), _round_up(plan.labels_more)


@dataclass(frozen=True)
class Plans:
    """How many labels more would halve the interval, by the policy that draws them; of `n` labels on `n_outputs`."""

    n: int
    n_outputs: int
    random: LabelPlan
    stratified: LabelPlan


def plans_of(question: Question, grades: Grades, items: Items, columns: list[int]) -> Plans | None:
    """None where the judge decided nothing that is not labelled, or nothing is labelled."""
    judge, human = verdicts_of(grades, items, columns)
    by_people = np.full(len(judge), np.nan)
    by_people[grades.labelled] = human
    n, left = int((~np.isnan(by_people)).sum()), int((np.isnan(by_people) & ~np.isnan(judge)).sum())
    if question.judge is None or not n or not left:
        return None

    def plan(policy: Policy) -> LabelPlan:
        rng = np.random.default_rng(0)
        return plan_labels(judge, by_people, (0, 1), clusters=grades.clusters, policy=policy, rng=rng, n_studies=STUDIES)

    return Plans(n, len(judge), plan("random"), plan("stratified"))


def study_with_labels(task: Task, judge: Grader | None, mode: str, epsilon: float = DEFAULT_EPSILON) -> dict[str, Any]:
    """The study, and in each of its scopes what the page says of the labels: the pull of seeing the judge, and how many more it takes."""
    found, grades = study(task, judge, mode, epsilon), grades_of(task, judge, mode)
    draws = draws_of(grades, n_boot=1)
    for criterion, scope in (("", found["pooled"]), *found["criteria"].items()):
        question = Question(task, judge, mode, criterion, epsilon)
        items, columns = scope_of(question, grades, draws)
        pull = in_points(pull_of_seeing(question), items.scale)
        scope["labels"] = {"seeing_judge": pull} | plan_figures(plans_of(question, grades, items, columns))
    return found


def plan_figures(plans: Plans | None) -> dict[str, Figure]:
    """The half width of the corrected rate's interval, and the labels more that would halve it."""
    if plans is None:
        why = "not defined, because it takes labels, and outputs without one that the judge decided"
        return {name: missing(why) for name in ("half_width", "more_random", "more_stratified")}
    now = plans.random.half_width
    found = {"half_width": _without_interval(now, plans.n, "it is half the width of one", plans.random.why_missing)}
    for name, plan in (("more_random", plans.random), ("more_stratified", plans.stratified)):
        more = None if plan.labels_more is None else _round_up(plan.labels_more)
        found[name] = _without_interval(more, plans.n, "it is simulated", plan.why_missing)
    return found


def _without_interval(value: float | None, n: int, why: str, why_missing: str) -> Figure:
    if value is None:
        return missing(f"not defined, because {why_missing.removeprefix('not defined, because ')}", n)
    return figure(Estimate(value, None, None, n, f"no interval: {why}"))


def _points_of(half_width: float) -> str:
    return f"{100 * half_width:.1f} percentage points"


def _round_up(labels: int) -> int:
    """To two digits: the simulation knows no more."""
    step = 10 ** max(len(str(labels)) - 2, 0)
    return -(-labels // step) * step


def anchoring(question: Question, items: Items) -> Sentence | None:
    """What seeing the judge first does, where outputs have grades of both kinds."""
    if question.judge is None or items.is_categorical:
        return None
    assisted = grades_of(question.task, question.judge, "assisted")
    if not len(assisted.labelled):
        return Sentence("Seeing the judge", "", "Nobody graded here after seeing the judge, so what that does can't be seen.")
    found = pull_of_seeing(question)
    if found.value is None:
        n = len(assisted.labelled)
        head = f"{counted(n, 'output')} {'has' if n == 1 else 'have'} grades made after seeing the judge, and none of them blind ones too"
        text = f"{head}: what seeing it does can't be told."
        return Sentence("Seeing the judge", "unsure", text)
    effect, who = in_points(found, items.scale), f"On the same {counted(found.n, 'score')}, people who saw the judge first land"
    if is_above(effect):
        return Sentence("Seeing the judge", "bad", f"{who} {_size(effect)} nearer to it. Such labels flatter the judge.")
    said = ": no pull shows" if effect["ci"] else f"; {effect['why_missing']}"
    return Sentence("Seeing the judge", "" if effect["ci"] else "unsure", f"{who} {with_interval(effect)} points nearer to it{said}.")


def pull_of_seeing(question: Question) -> Estimate:
    """How much nearer to the judge people land who saw it first, in points, on items with grades of both kinds."""
    if question.judge is None:
        return Estimate.missing("not defined, because no judge graded the outputs")
    modes = [replace(question, mode=mode) for mode in ("blind", "assisted")]
    grades = [grades_of(one.task, one.judge, one.mode) for one in modes]
    blind, assisted = (scope_of(one, arrays, draws_of(arrays, n_boot=1))[0] for one, arrays in zip(modes, grades, strict=True))
    return Estimate.missing(NOT_A_SCALE) if blind.is_categorical else effect_of_seeing(blind, assisted, grades[0])


def effect_of_seeing(blind: Items, assisted: Items, grades: Grades) -> Estimate:
    """Mean of |judge - people blind| less |judge - people who saw it|, on items with both; above 0 people are drawn to it."""
    gaps = [
        dict(zip(zip(i.output.tolist(), i.criterion.tolist(), strict=True), np.abs(i.judge - i.mean).tolist(), strict=True))
        for i in (blind, assisted)
    ]
    both = [key for key in gaps[0] if key in gaps[1] and not np.isnan(gaps[0][key] + gaps[1][key])]
    if not both:
        return Estimate.missing("not defined, because no output has blind grades and grades made after seeing the judge")
    pull = np.array([gaps[0][key] - gaps[1][key] for key in both])
    prompts = grades.clusters[[output for output, _ in both]]
    columns = np.stack([np.ones(len(pull)), pull], axis=1)
    return bootstrap(columns, mean_statistic, Resamples(prompts, rng=np.random.default_rng(0)))


def _judge_on_labelled(grades: Grades, items: Items) -> Figure | None:
    """The judge's mean score of the labelled outputs less that of the others, in points; None without others."""
    columns = np.unique(items.criterion)
    scores = grades.judge[:, columns].mean(axis=1) if len(columns) else np.empty(0)
    is_labelled = np.zeros(len(scores), dtype=bool)
    is_labelled[grades.labelled] = True
    known = ~np.isnan(scores)
    if items.is_categorical or min((known & is_labelled).sum(), (known & ~is_labelled).sum()) < 2:
        return None
    mine, prompts = is_labelled[known].astype(float), grades.clusters[known]
    columns_of = np.stack([mine, 1 - mine, mine * scores[known], (1 - mine) * scores[known]], axis=1)
    return in_points(bootstrap(columns_of, _apart, Resamples(prompts, rng=np.random.default_rng(0))), items.scale)


def _apart(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 2] / sums[:, 0] - sums[:, 3] / sums[:, 1])


def _size(found: Figure) -> str:
    low, high = sorted(abs(end) for end in found["ci"])
    return f"{points(abs(found['value']))} ({number(low)} to {number(high)})"


def _versions_chart(question: Question, versions: tuple[Grader, ...]) -> Chart | None:
    """Ranking and bias of each version of this judge against the same people."""
    same = [g for g in versions if g.name == question.judge.name][-MOST_VERSIONS:]
    if len(same) < 2:
        return None
    found = []
    for grader in same:
        asked = Question(question.task, grader, question.mode, question.criterion, question.epsilon)
        arrays = grades_of(question.task, grader, question.mode)
        items, _ = scope_of(asked, arrays)
        if not items.is_categorical:
            found.append((version_word(grader.version), "", errors.bias(items.judge, items.human, items.resamples)))
    return group_chart("Bias by version of this judge", found, items.scale)


def _time_chart(question: Question, items: Items, grades: Grades) -> Chart | None:
    """Bias by when the judge graded, in spans of about as many outputs."""
    if items.is_categorical:
        return None
    automatic = Grade.objects.filter(
        output__task=question.task, mode=Grade.Mode.AUTOMATIC, grader__name=question.judge.name, grader__version=question.judge.version
    )
    at = dict(automatic.order_by("id").values_list("output_id", "created_at"))
    when = np.array([at[pk].timestamp() if pk in at else np.nan for pk in grades.outputs.id.tolist()])[items.output]
    if np.isnan(when).all() or np.nanmax(when) - np.nanmin(when) < 24 * 3600:
        return None
    edges = np.unique(np.nanquantile(when, np.linspace(0, 1, TIME_BINS + 1)))
    span = np.clip(np.searchsorted(edges, when, side="right") - 1, -1, len(edges) - 2)
    span[np.isnan(when)] = -1
    found = errors.bias_by(items.judge, items.human, span, len(edges) - 1, items.resamples, fewest=FEWEST_IN_BIN)
    names = [f"{_day(edges[i])} to {_day(edges[i + 1])}" for i in range(len(edges) - 1)]
    return group_chart("Bias by when the judge graded", [(name, "", e) for name, e in zip(names, found, strict=True)], items.scale)


def _day(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, tz=UTC).strftime("%Y-%m-%d")
