"""Does something other than quality move the judge? Regressions of judge less human on what should not matter.

With more than 200 prompts, errors are cluster-robust by prompt (CR1, Student with prompts - 1 degrees of freedom): those of
statsmodels' OLS(...).fit(cov_type="cluster"), which the tests compare; it is not imported here (1.5 s).
Up to 200, and of a flag that few have, the residuals of each prompt are made up for how far they draw the fit to themselves (CR2),
and Student's quantile has the degrees of freedom that the design leaves (Bell and McCaffrey 2002, Survey Methodology 28:169-181;
Pustejovsky and Tipton 2018, Journal of Business & Economic Statistics 36:672-683): a slope hangs on the few prompts that are
unlike the others, such as those with a flag or much formatting, however many others there are. It has fewer where a few of
them make most of what is seen (`jackknife.spread_of`). Of a flag there is no interval for fewer than three.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, check_level, cluster_numbers, mean_human, score_array, sums_by
from graders.calibration.jackknife import NEGLIGIBLE, degrees_left, ends_of, spread_of
from graders.calibration.resample import FEW_PROMPTS, HINGES, ONE_PROMPT, ROUNDING, Mask, all_agree
from graders.calibration.result import Estimate, outputs_have
from graders.calibration.student import student_quantile

FEWEST_FLAGGED, FEW_FLAGGED = 3, 30  # prompts with the rarer value: for an interval; up to which CR2 is used
TOO_FEW_FLAGGED = f"no interval: fewer than {FEWEST_FLAGGED} prompts have one of the two kinds of output"


def length_bias(judge: Scores, human: Scores, length: Scores, clusters: Iterable[Hashable], level: float = 0.95) -> Estimate:
    """Return how many points more the judge gives for one standard deviation of log length, at equal human score.

    The slope of judge less mean human score on log(1 + length), scaled to standard deviation 1, with the human score in
    the regression: longer outputs that people too find better don't count as bias.

    Parameters
    ----------
    judge, human : array (n,), and (n,) or (n, raters)
        Scores in points of one scale, NaN or None where there is none.
    length : array (n,)
        Characters, 0 or more; NaN or None where not known.
    clusters : iterable (n,)
        The prompt of each output.

    Returns
    -------
    Estimate
        Points a standard deviation; above 0 the judge favours length. Not defined when all lengths are the same, or
        when there are fewer outputs than the regression has coefficients, plus one.
    """
    logs = _logs("length", length)
    return _slope(judge, human, logs, clusters, level=level, why_flat="the outputs have one length", scale=True)


def self_preference(judge: Scores, human: Scores, is_own: Scores, clusters: Iterable[Hashable], level: float = 0.95) -> Estimate:
    """Return how many points more the judge gives to outputs of its own family, at equal human score.

    Arguments as in `length_bias`; is_own (n,) is 1 where judge and agent are of one family, 0 where not. Not defined
    when that is so everywhere, or nowhere.
    """
    own = score_array("is_own", is_own)
    which = "every output" if np.nanmin(own, initial=1) == 1 else "no output"
    return _slope(judge, human, own, clusters, level=level, why_flat=f"{which} is of the judge's family", scale=False)


def formatting_bias(judge: Scores, human: Scores, density: Scores, clusters: Iterable[Hashable], level: float = 0.95) -> Estimate:
    """Return how many points more the judge gives for one standard deviation of formatting, at equal human score.

    As `length_bias`, on log(1 + density): density (n,) in marks a thousand characters (`texts.formatting_density`), 0 or
    more. Not defined when all outputs are formatted alike.
    """
    logs = _logs("density", density)
    return _slope(judge, human, logs, clusters, level=level, why_flat="the outputs are formatted alike", scale=True)


def injection_bias(judge: Scores, human: Scores, is_flagged: Scores, clusters: Iterable[Hashable], level: float = 0.95) -> Estimate:
    """Return how many points more the judge gives to outputs that speak to it, at equal human score.

    As `self_preference`; is_flagged (n,) is 1 where the text was found to do so (`graders.judge.injection`), 0 where not. Above
    0 the judge lets itself be told. Not defined when no output is flagged, or all are.
    """
    flagged = score_array("is_flagged", is_flagged)
    which = "every output speaks" if np.nanmin(flagged, initial=1) == 1 else "no output speaks"
    return _slope(judge, human, flagged, clusters, level=level, why_flat=f"{which} to the judge", scale=False)


def position_bias(judge: Scores, human: Scores, clusters: Iterable[Hashable], level: float = 0.95) -> Estimate:
    """Return how much more often the judge prefers the first of two answers than people do.

    Parameters
    ----------
    judge : array (n,)
        1 where it prefers the first answer, 0 a tie, -1 the second; NaN or None where unscored.
    human : array (n,) or (n, raters)
        The same of people.
    clusters : iterable (n,)
        The prompt of each comparison.

    Returns
    -------
    Estimate
        -1 to 1: half the mean of judge less human, in shares of comparisons; above 0 it favours the first. Not defined
        without a comparison that both judged; no interval when all have one prompt.

    Examples
    --------
    >>> round(position_bias([1, 1, 1, -1], [1, 0, -1, -1], "abcd").value, 3)
    0.375
    """
    check_level(level)
    x, y = score_array("judge", judge), mean_human(human)
    groups = cluster_numbers("clusters", clusters, len(x))
    both = ~np.isnan(x) & ~np.isnan(y)
    if not both.any():
        return Estimate.missing("not defined, because no comparison has both a judge's and a human verdict", 0, len(x))
    difference = (x - y)[both] / 2
    found = _fit(difference, np.ones((len(difference), 1)), 0, groups[both], level=level, n_dropped=int((~both).sum()))
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))  # as many comparisons as there can be


def reviewer_severity(ratings: Scores, names: Sequence[str], clusters: Iterable[Hashable], level: float = 0.95) -> dict[str, Estimate]:
    """Return how many points more each reviewer gives than the mean reviewer, on the same outputs: below 0 is harsh.

    Two-way effects (output + reviewer) by least squares; severities sum to 0.

    Parameters
    ----------
    ratings : array (n, raters)
        Scores, one column a rater, NaN or None where there is none.
    names : sequence of str
        The raters' names.
    clusters : iterable (n,)
        The prompt of each output.

    Returns
    -------
    dict of name -> Estimate
        n counts the rater's scores on outputs that another scored too. Not defined for a rater without one, nor for
        anyone when shared outputs don't link all raters: groups that share no output can't be compared.

    Examples
    --------
    >>> found = reviewer_severity([[3, 4], [1, 2], [2, 3], [4, 5]], ["ana", "ben"], range(4))
    >>> round(found["ana"].value, 4), round(found["ben"].value, 4)
    (-0.5, 0.5)
    """
    check_level(level)
    table = score_array("ratings", ratings, ndim=(2,))
    groups = cluster_numbers("clusters", clusters, len(table))
    given = ~np.isnan(table)
    shared = given.sum(axis=1) >= 2
    counts = given[shared].sum(axis=0)
    active = np.flatnonzero(counts > 0)
    missing = {n: Estimate.missing("not defined, because nobody else scored the same outputs") for n in names}
    if not len(active):
        return missing
    people = [names[int(i)] for i in active]
    if not _is_linked(given[shared][:, active]):
        why = "not defined, because not all reviewers are linked by outputs that they share"
        return missing | {n: Estimate.missing(why, int(counts[i])) for n, i in zip(people, active, strict=True)}
    values, parts = _two_way(table[shared][:, active], given[shared][:, active], groups[shared])
    found = {name: _of_parts(float(values[i]), parts[:, i], int(counts[active[i]]), level=level) for i, name in enumerate(people)}
    return missing | found


def _logs(name: str, values: Scores) -> Floats:
    given = score_array(name, values)
    if (given < 0).any():
        raise ValueError(f"{name} has {given[given < 0][0]:g}, must be 0 or more")
    return np.asarray(np.log1p(given))


def _slope(
    judge: Scores, human: Scores, covariate: Floats, clusters: Iterable[Hashable], *, level: float, why_flat: str, scale: bool
) -> Estimate:
    check_level(level)
    x, y = score_array("judge", judge), mean_human(human)
    if not len(x) == len(y) == len(covariate):
        raise ValueError(f"judge has {len(x)} outputs, human {len(y)}, the covariate {len(covariate)}: one row an output in each")
    groups = cluster_numbers("clusters", clusters, len(x))
    used = ~np.isnan(x) & ~np.isnan(y) & ~np.isnan(covariate)
    n, n_dropped, seen = int(used.sum()), int((~used).sum()), covariate[used]
    if n < 4:
        return Estimate.missing(f"not defined, because {outputs_have(n)} both scores, and it takes 4", n, n_dropped)
    if np.ptp(seen) < 1e-12:
        return Estimate.missing(f"not defined, because {why_flat}", n, n_dropped)
    seen = (seen - seen.mean()) / (seen.std(ddof=1) if scale else 1)
    level_human = y[used] - y[used].mean()
    parts = [np.ones(n), seen, level_human] if np.ptp(level_human) > 1e-12 else [np.ones(n), seen]
    design = np.stack(parts, axis=1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return Estimate.missing("not defined, because it moves exactly with the human score", n, n_dropped)
    rarer = None
    if not scale:
        few = min((np.unique(groups[used][covariate[used] == value]) for value in (0.0, 1.0)), key=len)
        rarer = len(few)
    return _fit((x - y)[used], design, 1, groups[used], level=level, n_dropped=n_dropped, rarer=rarer)


def _fit(outcome: Floats, design: Floats, place: int, groups: Ints, *, level: float, n_dropped: int, rarer: int | None = None) -> Estimate:
    """Return one coefficient of a least-squares fit with its cluster-robust interval.

    Of a flag, `rarer` is how many prompts have the rarer of its values: what is known of the coefficient hangs on these.
    """
    n, k = design.shape
    inverse = np.asarray(np.linalg.inv(design.T @ design), dtype=np.float64)
    coefficients = inverse @ (design.T @ outcome)
    residual = outcome - design @ coefficients
    numbers = np.unique(groups, return_inverse=True)[1]
    n_prompts = int(numbers.max()) + 1
    value = float(coefficients[place])
    if n_prompts < 2:
        return Estimate(value, None, None, n, why_missing=ONE_PROMPT, n_dropped=n_dropped)
    if rarer is not None and rarer < FEWEST_FLAGGED:
        return Estimate(value, None, None, n, why_missing=TOO_FEW_FLAGGED, n_dropped=n_dropped)
    if n_prompts <= FEW_PROMPTS or (rarer is not None and rarer <= FEW_FLAGGED):
        return _of_few(value, residual, design, inverse, numbers, place=place, level=level, n_dropped=n_dropped)
    by_prompt = sums_by(numbers, design * residual[:, None])
    spread = n_prompts / (n_prompts - 1) * (n - 1) / (n - k)
    variance = spread * float(inverse[place] @ (by_prompt.T @ by_prompt) @ inverse[place])
    return _with_error(value, variance, n, n_prompts, level=level, n_dropped=n_dropped)


def _of_few(
    value: float, residual: Floats, design: Floats, inverse: Floats, numbers: Ints, *, place: int, level: float, n_dropped: int
) -> Estimate:
    """Return one coefficient of a least-squares fit with its CR2 interval: CR1 is too short where prompts are few.

    The residuals e_g of a prompt are multiplied by the root of the inverse of (I - H)_gg, H the hat matrix: their covariance
    then is right where errors are independent and alike. With A = (X'X)^-1 and S_g = X_g'X_g that root works on (k, k)
    matrices: (I - H)_gg^-1/2 X_g A = X_g R (I - R S_g R)^-1/2 R, R the root of A.
    """
    n, k = design.shape
    products = (design[:, :, None] * design[:, None, :]).reshape(n, k * k)
    squares, root = sums_by(numbers, products).reshape(-1, k, k), _root(inverse)
    drawn, axes = np.linalg.eigh(root @ squares @ root)
    if drawn.max() > 1 - NEGLIGIBLE:
        return Estimate(value, None, None, n, why_missing=HINGES, n_dropped=n_dropped)
    reach = np.einsum("gij,gj,gkj,k->gi", axes, (1 - drawn) ** -0.5, axes, root[place]) @ root
    added = (sums_by(numbers, design * residual[:, None]) * reach).sum(axis=1)
    error = float((added**2).sum()) ** 0.5
    if error <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value, None, None, n, why_missing=all_agree(n), n_dropped=n_dropped)
    sums = np.einsum("gij,gj->gi", squares, reach)
    degrees = min(spread_of(added).degrees, degrees_left((sums * reach).sum(axis=1), sums, inverse))
    half = error * student_quantile(max(degrees, 1.0), (1 + level) / 2)
    method = f"least squares, errors by {len(added)} prompts (CR2)"
    return Estimate(value, value - half, value + half, n, method=method, n_dropped=n_dropped)


def _root(matrix: Floats) -> Floats:
    """Return the symmetric root of a positive matrix."""
    values, axes = np.linalg.eigh(matrix)
    return np.asarray(axes * np.sqrt(values) @ axes.T)


def _with_error(value: float, variance: float, n: int, n_prompts: int, *, level: float, n_dropped: int = 0) -> Estimate:
    if n_prompts < 2:
        return Estimate(value, None, None, n, why_missing=ONE_PROMPT, n_dropped=n_dropped)
    half = student_quantile(n_prompts - 1, (1 + level) / 2) * max(variance, 0.0) ** 0.5
    if half <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value, None, None, n, why_missing=all_agree(n), n_dropped=n_dropped)
    return Estimate(value, value - half, value + half, n, method=f"least squares, errors by {n_prompts} prompts", n_dropped=n_dropped)


def _is_linked(given: Mask) -> bool:
    """Return whether every rater can be reached from the first by outputs that two raters share."""
    together = (given.T.astype(np.float64) @ given) > 0
    reached = together[0]
    for _ in range(len(together)):
        reached = together[reached].any(axis=0)
    return bool(reached.all())


def _two_way(table: Floats, given: Mask, groups: Ints) -> tuple[Floats, Floats]:
    """Return rater effects that sum to 0, and what each prompt adds to them (C, raters)."""
    count = given.sum(axis=1, keepdims=True)
    mine = np.where(given, table - np.where(given, table, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
    there = given.astype(np.float64)
    normal = np.diag(there.sum(axis=0)) - (there / count).T @ there
    # Severities are known up to a constant: one eigenvalue is 0, and rounding makes it a little more.
    inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True)
    values = inverse @ mine.sum(axis=0)
    residual = np.where(given, mine - values - np.where(given, -values, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
    numbers = np.unique(groups, return_inverse=True)[1]
    by_prompt = sums_by(numbers, residual)
    return values, np.asarray(by_prompt @ inverse, dtype=np.float64)


def _of_parts(value: float, parts: Floats, n: int, *, level: float) -> Estimate:
    """Return a severity with its interval from what each prompt adds to it (C,): without one, it is less by that, about."""
    n_prompts = len(parts)
    if n_prompts < 2:
        return Estimate(value, None, None, n, why_missing=ONE_PROMPT)
    ends = ends_of(value, value - parts * n_prompts / (n_prompts - 1), "points", level)
    if ends is None:
        return Estimate(value, None, None, n, why_missing=all_agree(n))
    return Estimate(value, *ends, n, method=f"least squares, errors by {n_prompts} prompts")
