"""How many more labels? The interval that they would give, by simulation on the labels and judge scores there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, cluster_numbers, mean_human, score_array
from graders.calibration.resample import Mask
from graders.calibration.result import Estimate, outputs_have
from graders.calibration.sampling import Policy, Sample, draw, predicted_error, score_strata
from graders.calibration.weighted import weighted_mean, weighted_rate

MIN_LABELS = 10  # fewer tell too little of how people and judge differ


@dataclass(frozen=True)
class LabelPlan:
    """How the interval would shrink with more labels. `half_width` is that of now; curve of (labels more, half width)."""

    half_width: float | None
    curve: tuple[tuple[int, float], ...]
    labels_more: int | None
    why_missing: str = ""


def plan_labels(
    judge: Scores,
    human: Scores,
    scale: tuple[float, float],
    target: float | None = None,
    *,
    clusters: Iterable[Hashable] | None = None,
    policy: Policy = "random",
    rng: np.random.Generator,
    n_studies: int = 40,
) -> LabelPlan:
    """Return how many more labels it takes for a half width of `target` (half of today's by default), by simulation.

    People are made up for the outputs without a label: each gets the score of a labelled output near it in judge score,
    drawn at random. On that complete workspace the policy draws samples of growing size, and the mean score is estimated
    from each as it would be. With a rate, scores are 1 and 0 and the scale is (0, 1).

    Made-up people of one prompt are no more alike than others. So the simulated half widths are of independent outputs, and
    are multiplied by the root of the design effect 1 + (m - 1) rho (Kish 1965): m the labels that a labelled output's prompt has,
    rho how alike they are, by how much wider today's interval is with prompts than without.

    Parameters
    ----------
    judge, human : array (N,), and (N,) or (N, raters)
        Scores on every output; NaN or None where there is none.
    scale : (float, float)
        The ends of the scale.
    target : float, optional
        The wanted half width of the 95 % interval, in points.
    clusters : iterable (N,), optional
        The prompt of each output.
    policy : str
        Which of `POLICIES` draws; not `disagreement`.
    n_studies : int
        How many samples of each size.

    Returns
    -------
    LabelPlan
        `labels_more` is None when even all outputs labelled would not do, and it is said. Not defined with fewer than 10
        labels, of which too little can be told.

    References
    ----------
    Kish (1965), Survey Sampling, 5.4.
    """
    if policy == "disagreement":
        raise ValueError("policy is disagreement, which is never used for estimates; allowed: random, stratified, active")
    if target is not None and not target > 0:
        raise ValueError(f"target is {target:g}, must be above 0: half the width of an interval, in points")
    scores, people = score_array("judge", judge), mean_human(human)
    n = int((~np.isnan(people)).sum())
    if n < MIN_LABELS:
        return LabelPlan(None, (), None, f"not defined, because {outputs_have(n)} a human label, and it takes {MIN_LABELS}")
    layers = score_strata(scores)
    prompts = None if clusters is None else cluster_numbers("clusters", clusters, len(people))
    now = _half_width(_estimate(scores, people, scale, clusters=prompts))
    wanted = now / 2 if target is None and now is not None else target
    if now is None or wanted is None:
        return LabelPlan(None, (), None, "not defined, because the mean has no interval yet")
    curve: list[tuple[int, float]] = [(0, now)]
    error = predicted_error(scores, people, layers, scale)
    widened = _widened(now, _half_width(_estimate(scores, people, scale)), ~np.isnan(people), prompts)
    for size in _sizes(n, len(people)):
        widths = []
        for _ in range(n_studies):
            whole = _made_up(people, layers, rng)
            estimate = estimate_from(draw(policy, scores, error, layers, size, rng=rng), scores, whole, scale)
            widths.append(_half_width(estimate) or np.nan)
        curve.append((size - n, float(np.nanmean(widths)) * widened(size)))
        if curve[-1][1] <= wanted:
            break
    reached = _where(curve, wanted)
    why = "" if reached is not None else f"labelling all {len(people):,} outputs would leave {curve[-1][1]:.3g}"
    return LabelPlan(now, tuple(curve), reached, why)


def estimate_from(sample: Sample, judge: Scores, truth: Scores, scale: tuple[float, float], clusters: Ints | None = None) -> Estimate:
    """Return the mean human score by a sample of which `truth` (N,) has the labels, weighted as it was drawn, by prompt (N,).

    On the scale (0, 1) it is a pass rate.
    """
    people = mean_human(truth)
    human = np.full(len(people), np.nan)
    human[sample.indices] = people[sample.indices]
    strata = sample.strata if sample.policy == "stratified" else None
    weights = 1 / np.maximum(sample.probabilities, 1e-12) if sample.policy == "active" else None
    return _estimate(judge, human, scale, weights=weights, strata=strata, clusters=clusters)


def _estimate(
    judge: Scores,
    human: Floats,
    scale: tuple[float, float],
    *,
    weights: Floats | None = None,
    strata: Ints | None = None,
    clusters: Ints | None = None,
) -> Estimate:
    if scale == (0, 1):
        return weighted_rate(judge, human, weights, strata=strata, clusters=clusters)
    return weighted_mean(judge, human, scale, weights, strata=strata, clusters=clusters)


def _widened(now: float, alone: float | None, labelled: Mask, prompts: Ints | None) -> Callable[[int], float]:
    """Return by how much wider an interval of so many labels is for what outputs of a prompt have in common.

    `now` is today's half width, `alone` that of independent outputs.
    """
    if prompts is None or alone is None or now <= alone:
        return lambda size: 1.0
    n, of_each, labels = len(prompts), np.bincount(prompts), np.bincount(prompts[labelled])
    beside = float((labels * (labels - 1)).sum()) / labels.sum()  # other labels in a labelled output's prompt
    likeness = min(((now / alone) ** 2 - 1) / beside, 1.0) if beside > 0 else 0.0
    together = float((of_each * (of_each - 1)).sum()) / (n * (n - 1))  # the share of pairs of outputs that share a prompt
    return lambda size: float((1 + likeness * (size - 1) * together) ** 0.5)


def _made_up(people: Floats, strata: Ints, rng: np.random.Generator) -> Floats:
    """Return a score for each output: its own, or that of a labelled one of its stratum (of any, where it has none)."""
    whole, known = people.copy(), ~np.isnan(people)
    for layer in np.unique(strata):
        mine = strata == layer
        donors = people[mine & known]
        whole[mine & ~known] = rng.choice(donors if len(donors) else people[known], int((mine & ~known).sum()))
    return whole


def _sizes(n: int, n_outputs: int) -> list[int]:
    """Return sample sizes that grow by a third up to all outputs."""
    sizes, size = [], float(n)
    while size < n_outputs:
        size = min(max(size * 1.33, size + 5), n_outputs)
        sizes.append(int(size))
    return sizes


def _where(curve: list[tuple[int, float]], wanted: float) -> int | None:
    """Return the labels at which the curve reaches the wanted width, between two sizes by the root law; None if nowhere."""
    for (low, wide), (high, narrow) in itertools.pairwise(curve):
        if narrow <= wanted:
            if wide <= narrow:
                return high
            share = (1 / wanted**2 - 1 / wide**2) / (1 / narrow**2 - 1 / wide**2)
            return int(np.ceil(low + min(max(share, 0.0), 1.0) * (high - low)))
    return 0 if curve[0][1] <= wanted else None


def _half_width(estimate: Estimate) -> float | None:
    return None if estimate.low is None or estimate.high is None else (estimate.high - estimate.low) / 2
