"""Two judges on the same labelled outputs: by how much each figure differs, and which of the two is better.

Both are resampled by the same draws of prompts, so what makes both look better or worse cancels out: the interval of a
difference is mostly far narrower than the intervals of the two figures suggest.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graders.calibration import agreement, rank
from graders.calibration.arrays import Floats, Ints, Scores, cluster_numbers, mean_human, score_array
from graders.calibration.jackknife import Kind, ends_of_difference
from graders.calibration.resample import ROUNDING, Mask, Resamples, all_agree, bootstrap, mean_statistic, ratio, with_interval
from graders.calibration.result import Estimate

Better = Literal["a", "b", ""]
Verdict = Literal["a", "b", "mixed", ""]
HEADLINE = ("mae", "weighted_kappa", "spearman")  # decide the verdict, at a level that allows for three looks
CORRELATIONS = ("spearman", "kendall_b", "pearson")
SMALLER_IS_BETTER = ("mae", "abs_bias")
FEWEST_ALIKE = 10  # prompts, of which one in four or more that differ would be seen in 95 of 100 studies
WHY_NONE = "not defined, because no output has the scores of both judges and of a person"


@dataclass(frozen=True)
class Difference:
    """One figure of both judges, and b's less a's. `better` when the interval of the difference leaves out 0."""

    name: str
    a: float | None
    b: float | None
    difference: Estimate
    better: Better


@dataclass(frozen=True)
class Comparison:
    """`verdict` is "a", "b", "mixed" or "" (none shows); `text` says it. `gain` (n,): points that b is nearer to people."""

    differences: tuple[Difference, ...]
    verdict: Verdict
    text: str
    gain: Floats
    n: int
    n_dropped: int


def compare_judges(
    a: Scores, b: Scores, human: Scores, labels: Sequence[float], *, resamples: Resamples, groups: Iterable[Hashable] | None = None
) -> Comparison:
    """Return how two judges differ on the outputs that both and a person scored.

    Parameters
    ----------
    a, b : array (n,)
        Scores of the two judges on one scale, NaN or None where unscored.
    human : array (n,) or (n, raters)
        Human scores; the mean of each row, for kappa the median.
    labels : sequence of float
        The scale, rising, for kappa.
    resamples : Resamples of the n items
        By prompt. The same draws serve both judges.
    groups : iterable (n,), optional
        The criterion of each item, where there are several: correlations are then those within criteria (`rank.within`), of the
        criteria in which both judges have one.

    Returns
    -------
    Comparison
        mae and abs_bias (the size of the bias) in points, less is better; weighted_kappa, spearman, kendall_b, pearson, more
        is better. A figure that one of them does not have is not compared, and says why. The verdict rests on mae,
        weighted_kappa and spearman with intervals at 1 - .05 / 3 (Bonferroni): b is better when at least one speaks for
        it and none against it.

    Examples
    --------
    >>> draws = Resamples(range(40), rng=np.random.default_rng(0), n_boot=200)
    >>> people = [1, 2, 3, 4, 5] * 8
    >>> worse, better = [3, 3, 3, 4, 3] * 8, [1, 2, 3, 4, 4] * 8
    >>> found = compare_judges(worse, better, people, (1, 2, 3, 4, 5), resamples=draws)
    >>> found.verdict, round(found.differences[0].difference.value, 2)
    ('b', -0.8)
    """
    one, two, people, all_there = _of_all_three(a, b, human, resamples)
    n, n_dropped = int(all_there.sum()), int((~all_there).sum())
    mean = mean_human(people)
    gain = np.where(all_there, np.abs(one - mean) - np.abs(two - mean), np.nan)
    if not n:
        return _nothing(("mae", "abs_bias", "weighted_kappa", *CORRELATIONS), gain)
    part, pair = resamples.of(all_there), (one[all_there], two[all_there])
    numbers = np.zeros(len(one), dtype=np.int64) if groups is None else cluster_numbers("groups", groups, len(one))
    y = mean[all_there]
    found = (
        *_errors(pair, y, part, n_dropped),
        _kappa(pair, people[all_there], labels, part, n_dropped),
        *(_correlation(name, pair, y, numbers[all_there], part, n_dropped=n_dropped) for name in CORRELATIONS),
    )
    return Comparison(found, *_verdict(found, pair), gain, n, n_dropped)


def compare_categories(a: Scores, b: Scores, human: Scores, *, resamples: Resamples) -> Comparison:
    """Return how two judges differ that give each output one of several categories, which lie on no scale.

    Parameters
    ----------
    a, b, human
        As in `compare_judges`, with numbers of categories in place of scores.
    resamples : Resamples of the n items
        By prompt. The same draws serve both judges.

    Returns
    -------
    Comparison
        same_answer: the share of an output's people who give it the judge's category, on average over outputs. It alone decides.
        `gain` is the difference of an output's two shares.

    Examples
    --------
    >>> draws = Resamples(range(40), rng=np.random.default_rng(0))
    >>> found = compare_categories([0, 0, 0, 1] * 10, [0, 1, 0, 2] * 10, [0, 1, 2, 2] * 10, resamples=draws)
    >>> found.differences[0].a, found.differences[0].b, found.text
    (0.25, 0.75, 'B gives the category that people give more often than A.')
    """
    one, two, people, all_there = _of_all_three(a, b, human, resamples)
    n, n_dropped = int(all_there.sum()), int((~all_there).sum())
    # A row an output: the share of its people, NaN where there are none, who say what each judge says.
    alike = np.stack([mean_human(np.where(np.isnan(people), np.nan, people == x[:, None])) for x in (one, two)], axis=1)
    gain = np.where(all_there, alike[:, 1] - alike[:, 0], np.nan)
    if not n:
        return _nothing(("same_answer",), gain)
    part, columns = resamples.of(all_there), alike[all_there]
    values, drawn = columns.mean(axis=0).tolist(), part.sums(np.column_stack([np.ones(n), columns]))
    shares = [ratio(drawn[:, side], drawn[:, 0]) for side in (1, 2)]
    found = _difference("same_answer", values, shares, resamples=part, n=n, n_dropped=n_dropped)
    text = _no_difference((one[all_there], two[all_there]), "answers")
    if found.better:
        text = f"{found.better.upper()} gives the category that people give more often than {'A' if found.better == 'b' else 'B'}."
    return Comparison((found,), found.better, text, gain, n, n_dropped)


def _of_all_three(a: Scores, b: Scores, human: Scores, resamples: Resamples) -> tuple[Floats, Floats, Floats, Mask]:
    """Return both judges' scores, people's (n, raters), and which outputs have all."""
    one, two, people = score_array("a", a), score_array("b", b), score_array("human", human, ndim=(1, 2))
    people = people if people.ndim == 2 else people[:, None]
    if not len(one) == len(two) == len(people) == len(resamples.clusters):
        raise ValueError(
            f"a has {len(one)} outputs, b {len(two)}, human {len(people)}, resamples {len(resamples.clusters)}: one row an output"
        )
    return one, two, people, np.asarray(~np.isnan(one) & ~np.isnan(two) & ~np.isnan(people).all(axis=1))


def _nothing(names: Sequence[str], gain: Floats) -> Comparison:
    none = Estimate.missing(WHY_NONE, 0, len(gain))
    return Comparison(tuple(Difference(name, None, None, none, "") for name in names), "", WHY_NONE, gain, 0, len(gain))


@dataclass(frozen=True)
class Drift:
    """The same judge on the same outputs at two times. `shift`: later less earlier, in points. `repeat`: mean size of a change."""

    shift: Estimate
    repeat: Estimate
    verdict: Literal["drifted", "steady", "unknown"]
    text: str


def drift(earlier: Scores, later: Scores, resamples: Resamples, *, tolerance: float) -> Drift:
    """Return whether a judge still scores its anchors, outputs that it scored before, as it did.

    Parameters
    ----------
    earlier, later : array (n,)
        Its scores of the same outputs, NaN or None where unscored.
    resamples : Resamples of the n outputs
        By prompt.
    tolerance : float
        The shift in points that would not matter.

    Returns
    -------
    Drift
        "drifted" when the interval of the shift leaves out 0, "steady" when it lies within +- tolerance, else "unknown":
        there are too few anchors to tell. Where all outputs moved by the same, of ten prompts or more, it is "drifted", or
        "steady" if by nothing; there is no interval then. Not defined without an output that was scored at both times.

    Examples
    --------
    >>> draws = Resamples(range(30), rng=np.random.default_rng(0), n_boot=200)
    >>> drift([3] * 30, [3] * 15 + [4] * 15, draws, tolerance=0.25).verdict
    'drifted'
    """
    first, second = score_array("earlier", earlier), score_array("later", later)
    if not len(first) == len(second) == len(resamples.clusters):
        raise ValueError(f"earlier has {len(first)} outputs, later {len(second)}, resamples {len(resamples.clusters)}: one row an output")
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        none = Estimate.missing("not defined, because no output was scored at both times", 0, len(both))
        return Drift(none, none, "unknown", none.why_missing)
    change, part, n_dropped = (second - first)[both], resamples.of(both), int((~both).sum())
    # A change is as likely up as down unless the judge drifted, and where it did the interval holds the shift nearly as often.
    shift, repeat = _mean(change, part, n_dropped, "shift"), _mean(np.abs(change), part, n_dropped)
    if shift.why_missing == all_agree(shift.n) and shift.value is not None and part.n_drawn_from >= FEWEST_ALIKE:
        return _all_alike(shift, repeat)
    if shift.low is None or shift.high is None or shift.value is None:
        return Drift(shift, repeat, "unknown", f"Whether it drifted can't be told: {shift.why_missing}.")
    if shift.low > 0 or shift.high < 0:
        text = f"It drifted: {abs(shift.value):.2g} points {'higher' if shift.value > 0 else 'lower'} than before on the same outputs."
        return Drift(shift, repeat, "drifted", text)
    if -tolerance <= shift.low and shift.high <= tolerance:
        return Drift(shift, repeat, "steady", f"Steady: on the same outputs it moved by less than {tolerance:.2g} points on average.")
    return Drift(shift, repeat, "unknown", f"No drift shows, but one of {max(-shift.low, shift.high):.2g} points can't be ruled out.")


def _all_alike(shift: Estimate, repeat: Estimate) -> Drift:
    """Every anchor moved by the same, or not at all."""
    if abs(shift.value or 0.0) <= ROUNDING:
        return Drift(shift, repeat, "steady", f"Steady: each of the {shift.n:,} outputs has the score that it had before.")
    way = "higher" if (shift.value or 0.0) > 0 else "lower"
    text = f"It drifted: {abs(shift.value or 0.0):.2g} points {way} than before on each of the {shift.n:,} outputs."
    return Drift(shift, repeat, "drifted", text)


def _errors(pair: tuple[Floats, Floats], y: Floats, resamples: Resamples, n_dropped: int) -> list[Difference]:
    off = [x - y for x in pair]
    columns = np.stack([np.ones(len(y)), np.abs(off[0]), np.abs(off[1]), off[0], off[1]], axis=1)

    def maes(sums: Floats) -> tuple[Floats, Floats]:
        return sums[:, 1] / np.maximum(sums[:, 0], 1e-12), sums[:, 2] / np.maximum(sums[:, 0], 1e-12)

    def biases(sums: Floats) -> tuple[Floats, Floats]:
        return np.abs(sums[:, 3]) / np.maximum(sums[:, 0], 1e-12), np.abs(sums[:, 4]) / np.maximum(sums[:, 0], 1e-12)

    whole, drawn = columns.sum(axis=0)[None], resamples.sums(columns)
    return [
        _difference(name, [float(v[0]) for v in of(whole)], values, resamples=resamples, n=len(y), n_dropped=n_dropped)
        for name, of, values in (("mae", maes, maes(drawn)), ("abs_bias", biases, biases(drawn)))
    ]


def _kappa(pair: tuple[Floats, Floats], human: Floats, labels: Sequence[float], resamples: Resamples, n_dropped: int) -> Difference:
    values, drawn = [], []
    unseen: list[Floats | None] = []
    for x in pair:
        found, resampled, alike = agreement.resampled_kappa(x, human, labels, resamples, np.random.default_rng(0))
        if found.value is None:
            none = Estimate.missing(found.why_missing, len(x), n_dropped)
            return Difference("weighted_kappa", None, None, none, "")
        values.append(found.value)
        drawn.append(resampled)
        unseen.append(alike)
    return _difference("weighted_kappa", values, drawn, resamples=resamples, n=len(pair[0]), n_dropped=n_dropped, unseen=unseen)


def _correlation(name: str, pair: tuple[Floats, Floats], y: Floats, groups: Ints, resamples: Resamples, *, n_dropped: int) -> Difference:
    found, used = rank.resampled_within(name, pair, y, groups, resamples)
    n, n_dropped = int(used.sum()), n_dropped + int((~used).sum())
    if not found:
        why = next((why for x in pair if (why := rank.why_no_correlation(x, y))), rank.WHY_NONE_WITHIN)
        return Difference(name, None, None, Estimate.missing(why, n, n_dropped), "")
    values, drawn, unseen = zip(*found, strict=True)
    return _difference(name, values, drawn, resamples=resamples.of(used), n=n, n_dropped=n_dropped, unseen=unseen)


def _difference(
    name: str,
    values: Sequence[float],
    drawn: Sequence[Floats],
    *,
    resamples: Resamples,
    n: int,
    n_dropped: int,
    unseen: Sequence[Floats | None] = (),
) -> Difference:
    """Return one figure of both; `unseen` is given of correlations, whose difference has an interval of its own."""
    (a, b), (drawn_a, drawn_b) = values, drawn

    def at(draws: Resamples) -> Estimate:
        found = with_interval(b - a, drawn_b - drawn_a, draws, n, n_dropped)
        if draws.is_drawn or found.low is None or not unseen:
            return found
        there = np.bincount(draws.clusters, minlength=len(drawn_a)) > 0
        ends = ends_of_difference((a, b), (drawn_a[there], drawn_b[there]), draws.level, (unseen[0], unseen[1]))
        return found if ends is None else replace(found, low=min(ends[0], b - a), high=max(ends[1], b - a))

    part = resamples
    if name in HEADLINE:  # the verdict looks three times
        part = resamples.at_level(1 - (1 - resamples.level) / len(HEADLINE))
    strict, shown = at(part), at(resamples)
    better: Better = ""
    is_apart = strict.low is not None and strict.high is not None and not strict.low <= 0 <= strict.high
    if strict.why_missing == all_agree(n) and resamples.n_drawn_from >= FEWEST_ALIKE:  # the same on every output
        is_apart = abs(b - a) > ROUNDING
    if is_apart:
        better = "b" if (b < a) == (name in SMALLER_IS_BETTER) else "a"
    return Difference(name, a, b, shown, better)


def _verdict(found: Sequence[Difference], pair: tuple[Floats, Floats]) -> tuple[Verdict, str]:
    words = {"mae": "error", "weighted_kappa": "agreement", "spearman": "ranking"}
    for_b = [words[d.name] for d in found if d.name in HEADLINE and d.better == "b"]
    for_a = [words[d.name] for d in found if d.name in HEADLINE and d.better == "a"]
    if for_a and for_b:
        return "mixed", f"Mixed: B is better in {_listed(for_b)}, A in {_listed(for_a)}."
    if for_b or for_a:
        who, other = ("B", "A") if for_b else ("A", "B")
        rest = [word for word in words.values() if word not in for_a + for_b]
        close = f" In {_listed(rest)} no difference shows." if rest else ""
        return ("b" if for_b else "a"), f"{who} is better than {other} in {_listed(for_b or for_a)}.{close}"
    return "", _no_difference(pair, "scores")


def _no_difference(pair: tuple[Floats, Floats], what: str) -> str:
    n = len(pair[0])
    if (pair[0] == pair[1]).all():
        return f"There is no difference: both judges gave the same {n:,} {what}."
    return f"No difference shows on {n:,} {what}: more labels would be needed to tell these two apart."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _mean(values: Floats, resamples: Resamples, n_dropped: int, kind: Kind = "points") -> Estimate:
    return bootstrap(np.stack([np.ones(len(values)), values], axis=1), mean_statistic, resamples, n_dropped, kind=kind)
