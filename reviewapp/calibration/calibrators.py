"""The calibrator of a judge on a task: fitted to blind labels when it is first asked for, and again when these have changed.

It maps the judge's overall score to the overall score that people would give, and to the chance that they pass the
output. The same labels give the same calibrator, byte by byte; one that an export, a reward or a command used is kept by its
hash and never changed, so that they can name it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
from django.core.cache import cache
from django.db.models import QuerySet

from graders.calibration.recalibration import Recalibration, pass_chance, recalibrate
from graders.calibration.resample import Resamples
from reviewapp.calibration.figures import before_and_after
from reviewapp.calibration.rows import raw
from reviewapp.models import Calibrator, Grade, Output, Task
from reviewapp.queues.design import read_design
from reviewapp.queues.gold import gold_pairs

PASS_CHANCE = 0.5
SCORE = np.dtype([("output", np.int64), ("overall", np.float64)])
PROMPT = np.dtype([("output", np.int64), ("prompt", np.int64)])
CACHED_S = 24 * 3600


@dataclass(frozen=True)
class Fit:
    """A calibrator, or why there is none and how many labels more it would take (0: labels are not what it lacks)."""

    calibrator: Calibrator | None
    why_missing: str = ""
    labels_missing: int = 0

    @cached_property
    def _maps(self) -> tuple[Line, Line | None]:
        found = self.calibrator.map
        return Line(found["judge"], found["human"]), Line(*found["chance"]) if found["chance"] else None

    def predict(self, score: float) -> tuple[float, bool | None, float | None]:
        """The score that people would give, whether they would rather pass it than not, and their spread about that.

        No spread (None) where the labels show none: they do not tell how far off others would be.
        """
        expected, chance = self._maps
        people, threshold = expected.at(score), self.calibrator.map["threshold"]
        if chance is not None:
            is_pass: bool | None = chance.at(score) >= PASS_CHANCE
        else:  # people passed all, or none
            is_pass = None if threshold is None else people >= threshold
        return round(people, 6), is_pass, self.calibrator.map["spread"] or None


class Line:
    """Straight between its knots and level beyond them; for one score at a time, where numpy is slow."""

    def __init__(self, x: list[float], y: list[float]) -> None:
        self._x, self._y = x, y

    def at(self, score: float) -> float:
        place = bisect_right(self._x, score)
        if place == 0:
            return self._y[0]
        if place == len(self._x):
            return self._y[-1]
        (x0, x1), (y0, y1) = self._x[place - 1 : place + 1], self._y[place - 1 : place + 1]
        return y0 + (y1 - y0) * (score - x0) / (x1 - x0)


@dataclass(frozen=True)
class _Labels:
    """Outputs with a blind label and this judge's score, in the order of their ids."""

    judge: np.ndarray
    human: np.ndarray
    passed: np.ndarray
    clusters: np.ndarray


def current_fit(task: Task, name: str, version: str) -> Fit:
    """The calibrator by the labels of now, kept. Fitted only when a grade of the task has come since it was last asked for."""
    found = fit_to_see(task, name, version)
    if found.calibrator is not None and found.calibrator.pk is None:
        found = Fit(_keep(found.calibrator))
        cache.set(_cache_key(task, name, version), found, CACHED_S)
    return found


def fit_to_see(task: Task, name: str, version: str) -> Fit:
    """The same one, but one that nothing has used is not kept: to look at it changes nothing."""
    key = _cache_key(task, name, version)
    found = cache.get(key)
    if found is None:
        found = _fit(task, name, version)
        cache.set(key, found, CACHED_S)
    return found


def _cache_key(task: Task, name: str, version: str) -> str:
    judge = hashlib.sha256(f"{name}@{version}".encode()).hexdigest()[:16]
    return f"calibrator:{task.pk}:{task.revision}:{task.rubric_id}:{judge}"


def _fit(task: Task, name: str, version: str) -> Fit:
    if task.rubric is None:
        return Fit(None, "not fitted, because the task has no rubric")
    labels = _read_labels(task, name, version)
    scale = (task.rubric.scale_low, task.rubric.scale_high)
    resamples = Resamples(labels.clusters, rng=np.random.default_rng(0), n_boot=500)
    rng = np.random.default_rng(0)
    made = recalibrate(labels.judge, labels.human, labels.passed, scale, labels.clusters, rng=rng, resamples=resamples)
    if made.calibrator is None:
        return Fit(None, made.why_missing, made.labels_missing)
    return Fit(_unkept(task, name, version, labels, made))


def _unkept(task: Task, name: str, version: str, labels: _Labels, made: Recalibration) -> Calibrator:
    fitted = made.calibrator
    content = {
        "method": fitted.method,
        "judge": list(fitted.judge),
        "human": list(fitted.human),
        "chance": pass_chance(labels.judge, labels.passed),
        "threshold": task.rubric.pass_threshold if task.rubric.pass_rule == "overall" else None,
        "scale": [fitted.low, fitted.high],
        "half_width": fitted.half_width,
        "level": fitted.level,
        "spread": fitted.spread,
        "n": fitted.n,
        "n_prompts": len(np.unique(labels.clusters)),
    }
    sha256 = hashlib.sha256(orjson.dumps([task.slug, task.rubric.sha256, name, version, content])).hexdigest()
    report = before_and_after(made, (fitted.low, fitted.high))
    names = {"task": task, "judge_name": name, "judge_version": version, "sha256": sha256}
    return Calibrator(**names, map=orjson.loads(orjson.dumps(content)), report=report)


def _keep(made: Calibrator) -> Calibrator:
    names = {name: getattr(made, name) for name in ("task", "judge_name", "judge_version", "sha256")}
    return Calibrator.objects.get_or_create(**names, defaults={"map": made.map, "report": made.report})[0]


def _read_labels(task: Task, name: str, version: str) -> _Labels:
    """By the task's rubric of now alone: scores by another one may mean something else."""
    grades = Grade.objects.filter(output__task=task, output__is_latest=True, rubric_id=task.rubric_id, retraction__isnull=True).order_by()
    blind = grades.filter(mode=Grade.Mode.BLIND)
    outputs, overall, passed = _newest(blind, gold_pairs(task))
    ids, row = np.unique(outputs.astype(np.int64), return_inverse=True)
    judged = grades.filter(mode=Grade.Mode.AUTOMATIC, grader__name=name, grader__version=version, overall__isnull=False)
    scores = np.fromiter(raw(judged.order_by("id").values_list("output_id", "overall")), dtype=SCORE)
    judge = _in_places(ids, scores["output"], scores["overall"])
    scored, decided = ~np.isnan(overall), ~np.isnan(passed)
    n_scores, total = _sums(row[scored], overall[scored], len(ids))
    n_verdicts, passes = _sums(row[decided], passed[decided], len(ids))
    both = np.flatnonzero((n_scores > 0) & ~np.isnan(judge))
    n_raters = np.bincount(row, minlength=len(ids))
    kept = both[read_design(task, ids[both], ids[both], n_raters[both].tolist()).is_counted]
    by_majority = np.where(2 * passes == n_verdicts, np.nan, 2 * passes > n_verdicts)  # a tie, or nobody: NaN
    prompts = Output.objects.filter(task=task, is_latest=True, variant__prompt="", prompt__isnull=False)
    prompt = np.fromiter(raw(prompts.values_list("id", "prompt_id")), dtype=PROMPT)
    clusters = _in_places(ids, prompt["output"], prompt["prompt"])
    return _Labels(
        judge=judge[kept],
        human=total[kept] / n_scores[kept],
        passed=by_majority[kept],
        clusters=np.where(np.isnan(clusters), -ids, clusters).astype(np.int64)[kept],
    )


def _newest(blind: QuerySet[Grade], gold: Collection[tuple[int, str]]) -> np.ndarray:
    """(3, n): output, score and verdict of the newest grade of each output and person; gold items are left out."""
    rows = sorted(raw(blind.values_list("id", "output_id", "rater_name", "overall", "passed")))
    newest = {(of, rater): (of, overall, passed) for _, of, rater, overall, passed in rows if (of, rater) not in gold}
    return np.array(list(newest.values()), dtype=float).reshape(-1, 3).T


def _in_places(ids: np.ndarray, outputs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each id's value, NaN where there is none; of several the last. `ids` rise."""
    found = np.full(len(ids), np.nan)
    at = np.searchsorted(ids, outputs)
    known = np.flatnonzero((at < len(ids)) & (ids[np.minimum(at, len(ids) - 1)] == outputs)) if len(ids) else []
    found[at[known]] = values[known]
    return found


def _sums(rows: np.ndarray, values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.bincount(rows, minlength=n), np.bincount(rows, weights=values, minlength=n)
