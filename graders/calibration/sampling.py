"""Which outputs to label next: policies that draw them, each with the probability with which each output was drawn.

Without that probability a label says nothing of the others. `random` is even; `stratified` draws more where people and
judge differ more, a fixed number in each stratum; `active` draws in proportion to the predicted error; `disagreement`
takes the worst first: to find faults, never to estimate.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graders.calibration.arrays import (
    Floats,
    Ints,
    Scores,
    check_scale,
    cluster_numbers,
    mean_human,
    rising_numbers,
    score_array,
    stratum_numbers,
)

Policy = Literal["random", "stratified", "active", "disagreement"]
POLICIES: tuple[Policy, ...] = ("random", "stratified", "active", "disagreement")
EVEN_SHARE = 0.5  # of a weighted draw, dealt out evenly: no output is as good as never drawn, no weight is huge
PRIOR_LABELS = 4.0  # a stratum's spread is drawn towards that of all as if by so many labels


@dataclass(frozen=True)
class Sample:
    """Which outputs were drawn, in the random order in which to label them.

    The first m of them are a sample of the same kind, so a queue may be left before its end.

    Parameters
    ----------
    policy : str
        One of `POLICIES`.
    indices : array (k,)
        Places of the drawn outputs.
    probabilities : array (N,)
        With which each output was drawn; NaN for `disagreement`, which is no lottery.
    strata : array (N,)
        The stratum of each output; 0 where there are none.
    """

    policy: Policy
    indices: Ints
    probabilities: Floats
    strata: Ints

    @property
    def is_for_estimates(self) -> bool:
        """Whether labels of this sample may enter an estimate."""
        return self.policy != "disagreement"


def random_sample(n_outputs: int, size: int, *, rng: np.random.Generator) -> Sample:
    """Return `size` of the outputs, each as likely as any other: probability size / N.

    Examples
    --------
    >>> drawn = random_sample(4, 2, rng=np.random.default_rng(0))
    >>> len(set(drawn.indices.tolist())), drawn.probabilities.tolist()
    (2, [0.5, 0.5, 0.5, 0.5])
    """
    size = _check_size(size, n_outputs)
    indices = rng.permutation(n_outputs)[:size]
    return Sample("random", indices, np.full(n_outputs, size / max(n_outputs, 1)), np.zeros(n_outputs, dtype=np.int64))


def stratified_sample(strata: Iterable[Hashable], size: int, spread: Scores | None = None, *, rng: np.random.Generator) -> Sample:
    """Return `size` of the outputs, a fixed number of each stratum: Neyman's allocation.

    Parameters
    ----------
    strata : iterable (N,)
        The stratum of each output, such as task and quantile of the judge's score (`score_strata`).
    size : int
        How many to draw.
    spread : array (N,), optional
        How far people and judge are expected to differ on each output (`predicted_error`); its mean by stratum counts.
        None: all alike, and the strata get their share of outputs.

    Returns
    -------
    Sample
        Probability n_h / N_h. The number of a stratum is in proportion to its outputs times its spread; half of the
        sample is dealt out by outputs alone, so that a spread that was guessed too low does little harm.

    References
    ----------
    Neyman (1934), Journal of the Royal Statistical Society 97:558-625.
    """
    layers = _numbers(strata)
    n_outputs = len(layers)
    size = _check_size(size, n_outputs)
    sizes = np.bincount(layers).astype(np.float64)
    wide: Floats = sizes if spread is None else np.bincount(layers, weights=_positive("spread", spread, n_outputs)).astype(np.float64)
    taken = _allocate(sizes, wide, size)
    drawn = [rng.permutation(np.flatnonzero(layers == h))[:k] for h, k in enumerate(taken)]
    indices = rng.permutation(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)
    return Sample("stratified", indices.astype(np.int64), (taken / np.maximum(sizes, 1))[layers], layers)


def active_sample(error: Scores, size: int, *, rng: np.random.Generator) -> Sample:
    """Return `size` of the outputs, each with a probability in proportion to its predicted error, half of it dealt evenly.

    Parameters
    ----------
    error : array (N,)
        How far off the judge is expected to be on each output (`predicted_error`), 0 or more.
    size : int
        How many to draw.

    Returns
    -------
    Sample
        Probabilities sum to `size` and are at most 1. They are met exactly: systematic sampling from a random order.

    References
    ----------
    Zrnic and Candes (2024), Active statistical inference, arXiv 2403.03208, section 3 and, for the even half, section 6.
    Madow (1949), Annals of Mathematical Statistics 20:333-354, on systematic sampling.
    """
    errors = _positive("error", error, len(np.asarray(error)))
    size = _check_size(size, len(errors))
    chances = _chances(errors, size)
    order = rng.permutation(len(chances))
    ends = np.cumsum(chances[order])
    picks = np.searchsorted(ends, rng.random() + np.arange(size), side="right")
    indices = rng.permutation(order[np.minimum(picks, len(order) - 1)])
    return Sample("active", indices, chances, np.zeros(len(chances), dtype=np.int64))


def disagreement_sample(disagreement: Scores, size: int) -> Sample:
    """Return the `size` outputs on which graders differ most, the worst first. NaN and None come last.

    To find faults of a judge or a rubric. An estimate from such labels would be off, so there is no probability.

    Examples
    --------
    >>> disagreement_sample([0.5, None, 3, 1], 2).indices.tolist()
    [2, 3]
    """
    differs = score_array("disagreement", disagreement)
    size = _check_size(size, len(differs))
    indices = np.argsort(-np.nan_to_num(differs, nan=-np.inf), kind="stable")[:size]
    return Sample("disagreement", indices, np.full(len(differs), np.nan), np.zeros(len(differs), dtype=np.int64))


def score_cuts(judge: Scores, n_quantiles: int = 5) -> tuple[float, ...]:
    """Return the judge scores at which one quantile ends and the next begins, rising; fewer when many scores are equal.

    Examples
    --------
    >>> score_cuts([1, 1, 2, 3, 4, 5, None], 2)
    (2.0,)
    """
    if n_quantiles < 1:
        raise ValueError(f"n_quantiles is {n_quantiles}, must be at least 1")
    scores = score_array("judge", judge)
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return ()
    cuts = np.unique(np.quantile(scores, np.arange(1, n_quantiles) / n_quantiles, method="inverted_cdf"))
    return tuple(cuts[cuts < scores.max()].tolist())


def strata_by(cuts: Sequence[float], judge: Scores) -> Ints:
    """Return the stratum of each output: how many cuts lie below its judge score; one more than all where it has none."""
    scores = score_array("judge", judge)
    below = np.searchsorted(np.asarray(cuts, dtype=np.float64), np.nan_to_num(scores), side="left")
    return np.where(np.isnan(scores), len(cuts) + 1, below)


def score_strata(judge: Scores, groups: Iterable[Hashable] | None = None, n_quantiles: int = 5) -> Ints:
    """Return the stratum of each output: its group (such as its task) and the quantile of its judge score within it.

    Equal scores are never parted, so there can be fewer strata. Outputs without a judge score are a stratum of the group.

    Examples
    --------
    >>> score_strata([1, 1, 2, 3, 4, 5, None], n_quantiles=2).tolist()
    [0, 0, 0, 1, 1, 1, 2]
    """
    scores = score_array("judge", judge)
    group = np.zeros(len(scores), dtype=np.int64) if groups is None else cluster_numbers("groups", groups, len(scores))
    level = np.zeros(len(scores), dtype=np.int64)
    for number in range(int(group.max(initial=-1)) + 1):
        mine = group == number
        level[mine] = strata_by(score_cuts(scores[mine], n_quantiles), scores[mine])
    return rising_numbers(group * (n_quantiles + 1) + level)


def predicted_error(judge: Scores, human: Scores, strata: Iterable[Hashable], scale: tuple[float, float]) -> Floats:
    """Return how far people are expected to be from what the judge's score tells, for each output, in points.

    The root of the mean squared difference of people from the mean of their stratum, over the labels there are; with few
    labels in a stratum, drawn towards that of all strata. Without any label, all outputs alike.

    Parameters
    ----------
    judge : array (N,)
        Only says which outputs the judge scored; may be NaN.
    human : array (N,) or (N, raters)
        Labels so far, NaN or None where there is none.
    strata : iterable (N,)
        Such as those of `score_strata`.
    scale : (float, float)
        The ends of the scale.
    """
    check_scale(scale)
    people, layers = mean_human(human), _numbers(strata)
    if not len(score_array("judge", judge)) == len(people) == len(layers):
        raise ValueError(f"human has {len(people)} outputs, strata {len(layers)}: one row an output in each")
    known = ~np.isnan(people)
    alike = np.full(len(people), (scale[1] - scale[0]) / 4)
    if known.sum() < 2:
        return alike
    count = np.bincount(layers[known], minlength=int(layers.max()) + 1)
    means = np.bincount(layers[known], weights=people[known], minlength=len(count)) / np.maximum(count, 1)
    squares = np.bincount(layers[known], weights=(people[known] - means[layers[known]]) ** 2, minlength=len(count))
    freedom = np.maximum(count - 1, 0)
    floor = ((scale[1] - scale[0]) / 20) ** 2
    overall = max(float(squares.sum()) / max(float(freedom.sum()), 1.0), floor)
    found = (squares + PRIOR_LABELS * overall) / (freedom + PRIOR_LABELS)
    return np.asarray(np.sqrt(np.maximum(found, floor))[layers])


def draw(policy: Policy, judge: Floats, error: Floats, strata: Ints, size: int, *, rng: np.random.Generator) -> Sample:
    """Return a sample by the named policy; for `disagreement`, error is what the graders differ by."""
    if policy == "random":
        return random_sample(len(judge), size, rng=rng)
    if policy == "stratified":
        return stratified_sample(strata, size, error, rng=rng)
    if policy == "active":
        return active_sample(error, size, rng=rng)
    if policy == "disagreement":
        return disagreement_sample(error, size)
    raise ValueError(f"policy is {policy!r}, allowed: {', '.join(POLICIES)}")


def combined_weights(samples: Sequence[tuple[Ints, Floats]], n_outputs: int) -> Floats:
    """Return a weight for each output (N,) from several samples, each of which stands for all; NaN where in none.

    Parameters
    ----------
    samples : sequence of (places (k,), probabilities (k,))
        Of the labelled outputs of each sample. A sample has a say in proportion to its effective size,
        (sum w)^2 / sum w^2 with w one over the probability.
    n_outputs : int
        How many outputs there are.

    References
    ----------
    Hartley (1962), Multiple frame surveys, Proceedings of the Social Statistics Section of the ASA, 203-206.

    Examples
    --------
    Two labels of an even sample, and two drawn at 1 in 2 and 1 in 4 (effective size 36 / 20 = 1.8).

    >>> even, active = (np.array([0, 1]), np.array([0.5, 0.5])), (np.array([1, 2]), np.array([0.5, 0.25]))
    >>> combined_weights([even, active], 4).round(2).tolist()
    [1.0, 1.6, 1.2, nan]
    """
    total = np.zeros(n_outputs)
    for places, chances in samples:
        if not (chances > 0).all():
            raise ValueError(f"probability {chances[~(chances > 0)][0]:g}, must be above 0: a label that nobody could draw has none")
        weight = 1 / chances
        if len(weight):
            total[places] += weight.sum() / (weight**2).sum() * weight
    return np.where(total > 0, total, np.nan)


def _allocate(sizes: Floats, wide: Floats, size: int) -> Ints:
    """Return how many of each stratum: half by outputs, half by spread; none over its outputs; two each where that can be."""
    share = EVEN_SHARE * sizes / sizes.sum() + (1 - EVEN_SHARE) * wide / wide.sum() if len(sizes) else sizes
    wanted, taken = size * share, np.zeros(len(sizes), dtype=np.int64)
    floor = np.minimum(sizes, 2 if size >= 2 * len(sizes) else 0).astype(np.int64)
    for _ in range(len(sizes) + 1):  # what a full stratum can't take goes to the others
        taken = np.clip(np.floor(wanted), floor, sizes).astype(np.int64)
        left = size - int(taken.sum())
        is_open = taken < sizes if left > 0 else taken > floor
        if left == 0 or not is_open.any():
            break
        if abs(left) <= is_open.sum():
            rest = np.where(is_open, wanted - taken, -np.inf if left > 0 else np.inf)
            places = np.argsort(-rest if left > 0 else rest, kind="stable")[: abs(left)]
            taken[places] += np.sign(left)
            break
        wanted = np.where(is_open, wanted + left * share / share[is_open].sum(), wanted)
    return taken


def _chances(error: Floats, size: int) -> Floats:
    """Return probabilities that sum to size, in proportion to the mix of error and evenness, at most 1."""
    n = len(error)
    total = float(error.sum())
    mix = EVEN_SHARE / max(n, 1) + (1 - EVEN_SHARE) * (error / total if total > 0 else np.full(n, 1 / max(n, 1)))
    chances, full = size * mix, np.zeros(n, dtype=bool)
    while (chances > 1).any():
        full |= chances >= 1
        open_total = float(mix[~full].sum())
        chances = np.where(full, 1.0, (size - full.sum()) * mix / open_total if open_total > 0 else 0.0)
    return chances


def _check_size(size: int, n_outputs: int) -> int:
    if size < 1:
        raise ValueError(f"size is {size}, must be at least 1")
    return min(size, n_outputs)


def _positive(name: str, values: Scores, length: int) -> Floats:
    """Return values (N,), NaN taken as their mean; ValueError when one is below 0."""
    given = score_array(name, values)
    if len(given) != length:
        raise ValueError(f"{name} has {len(given)} entries, must have one an output: {length}")
    if (given < 0).any():
        raise ValueError(f"{name} has {given[given < 0][0]:g}, must be 0 or more")
    known = given[~np.isnan(given)]
    return np.where(np.isnan(given), known.mean() if len(known) else 1.0, given) + 1e-12


def _numbers(strata: Iterable[Hashable]) -> Ints:
    named = strata if isinstance(strata, np.ndarray) else list(strata)
    return stratum_numbers("strata", named, len(named))
