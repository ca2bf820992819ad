"""The alternative annotator test: may the judge stand in for one of the people? (Calderon, Reichart, Dror, ACL 2025)

Each person in turn is left out, and both that person and the judge are compared with those who remain. The judge wins
against the person when it comes as close to the rest, less epsilon for being cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, score_array
from graders.calibration.resample import Mask, Resamples, bootstrap, ratio
from graders.calibration.result import Estimate
from graders.calibration.student import student_probability

Scoring = Literal["neg_rmse", "accuracy"]
MIN_HUMANS = 2  # scores an output
MIN_INSTANCES = 30  # outputs a person
FALSE_DISCOVERY_RATE = 0.05
PASSES_FROM = 0.5  # winning rate
TIE = 1e-9


@dataclass(frozen=True)
class PersonTest:
    """The judge against one person: on which share of n outputs it came as close to the rest or closer, and p."""

    name: str
    n: int
    advantage: float
    p_value: float
    is_won: bool


@dataclass(frozen=True)
class AltTest:
    """Whether the judge may stand in for a person.

    winning_rate is the share of people against whom it wins, and it passes from 0.5. advantage_probability is the mean
    over people of `advantage`. left_out are people with fewer than 30 outputs that others scored too.
    """

    winning_rate: float | None
    advantage_probability: Estimate
    people: tuple[PersonTest, ...]
    left_out: tuple[str, ...]
    epsilon: float
    why_missing: str = ""

    @property
    def passes(self) -> bool | None:
        """Whether the judge passes the test; None when there is none."""
        return None if self.winning_rate is None else self.winning_rate >= PASSES_FROM


def alternative_annotator_test(
    judge: Scores,
    human: Scores,
    scoring: Scoring,
    epsilon: float,
    *,
    names: Sequence[str] = (),
    resamples: Resamples | None = None,
) -> AltTest:
    """Return the alternative annotator test of a judge.

    Parameters
    ----------
    judge : array (n,)
        The judge's scores, or numbers of categories; NaN or None where unscored.
    human : array (n, raters)
        People's, one column a person.
    scoring : "neg_rmse" or "accuracy"
        How closeness to the others is measured: root mean squared difference (numeric), or share of equal answers.
    epsilon : float
        What being cheaper is worth: 0.2 against experts, 0.15 skilled workers, 0.1 crowd workers. From 0 to 1.
    names : sequence of str, optional
        The people's names; by default their numbers.
    resamples : Resamples of the n items, optional
        For the interval of the advantage probability.

    Returns
    -------
    AltTest
        Outputs with two people's scores or more are used, people with 30 such outputs or more. Not defined when there
        are none.

    Notes
    -----
    For each person, a one-sided t test that the mean of (person at least as close) - (judge at least as close) lies
    below epsilon; p values are then judged together by Benjamini-Yekutieli at 0.05. Outputs are taken as independent in
    that test, as in the paper.

    References
    ----------
    Calderon, Reichart and Dror (2025), The Alternative Annotator Test for LLM-as-a-Judge, arXiv 2501.10970, section 3.

    Examples
    --------
    Three people and a judge who says what the first one says.

    >>> rng = np.random.default_rng(0)
    >>> people = np.clip(rng.integers(1, 6, size=(60, 1)) + rng.integers(-1, 2, size=(60, 3)), 1, 5)
    >>> test = alternative_annotator_test(people[:, 0], people, "neg_rmse", 0.2)
    >>> test.winning_rate, test.people[0].advantage, test.passes
    (1.0, 1.0, True)
    """
    if scoring not in ("neg_rmse", "accuracy"):
        raise ValueError(f"scoring is {scoring!r}, allowed: neg_rmse, accuracy")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}, must lie in 0 to 1, such as 0.2")
    scores, people = score_array("judge", judge), score_array("human", human, ndim=(2,))
    if len(scores) != len(people):
        raise ValueError(f"judge has {len(scores)} outputs, human {len(people)}; one row an output in both")
    called = list(names) or [str(number) for number in range(people.shape[1])]
    if len(called) != people.shape[1]:
        raise ValueError(f"names has {len(called)} entries, human {people.shape[1]} columns")
    given = ~np.isnan(people)
    used = (given.sum(axis=1) >= MIN_HUMANS) & ~np.isnan(scores)
    tested = given[used].sum(axis=0) >= MIN_INSTANCES
    left_out = tuple(name for name, is_tested in zip(called, tested, strict=True) if not is_tested)
    if not tested.any():
        why = f"not defined, because nobody scored {MIN_INSTANCES} outputs that the judge and someone else scored too"
        return AltTest(None, Estimate.missing(why, int(used.sum()), int((~used).sum())), (), left_out, epsilon, why)
    there = given.T[:, used].T  # a person's column in one piece
    wins, losses, mine = _comparisons(scores[used], people.T[:, used].T, there, np.flatnonzero(tested), scoring)
    results = _test_people([n for n, t in zip(called, tested, strict=True) if t], wins, losses, mine, epsilon)
    columns = np.concatenate([wins.T, mine.T]).astype(np.float64).T
    advantage = bootstrap(columns, _mean_share, resamples and resamples.of(used), int((~used).sum()), kind="mean")
    return AltTest(sum(r.is_won for r in results) / len(results), advantage, results, left_out, epsilon)


def benjamini_yekutieli(p_values: Sequence[float], rate: float = FALSE_DISCOVERY_RATE) -> list[bool]:
    """Return which hypotheses are rejected, so that among them few (rate) are true, however dependent the tests are.

    References
    ----------
    Benjamini and Yekutieli (2001), Annals of Statistics 29:1165-1188. scipy.stats.false_discovery_control.

    Examples
    --------
    >>> benjamini_yekutieli([0.001, 0.04, 0.9])
    [True, False, False]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order, m = np.argsort(p, kind="stable"), len(p)
    bars = rate * np.arange(1, m + 1) / (m * (1 / np.arange(1, m + 1)).sum())
    below = np.flatnonzero(p[order] <= bars)
    rejected = np.zeros(m, dtype=bool)
    rejected[order[: below[-1] + 1 if len(below) else 0]] = True
    return [bool(r) for r in rejected]


def _comparisons(judge: Floats, people: Floats, given: Mask, tested: Ints, scoring: Scoring) -> tuple[Mask, Mask, Mask]:
    """Return for each output and tested person: judge at least as close, person at least as close, person is there."""
    wins, losses, mine = [], [], given[:, tested]
    for person in tested:
        rest = given.copy(order="K")
        rest[:, person] = False
        by_judge = _distance(judge, people, rest, scoring)
        by_person = _distance(people[:, person], people, rest, scoring)
        wins.append(given[:, person] & (by_judge <= by_person + TIE))
        losses.append(given[:, person] & (by_person <= by_judge + TIE))
    return np.stack(wins).T, np.stack(losses).T, mine


def _distance(one: Floats, people: Floats, rest: Mask, scoring: Scoring) -> Floats:
    """Return how far one's score of each output is from the rest: root mean square, or share of other answers."""
    difference = one[:, None] - people
    apart = difference**2 if scoring == "neg_rmse" else (difference != 0).astype(np.float64)
    mean = ratio(np.where(rest, apart, 0.0).sum(axis=1), rest.sum(axis=1).astype(np.float64))
    return np.sqrt(mean) if scoring == "neg_rmse" else mean


def _test_people(names: Sequence[str], wins: Mask, losses: Mask, mine: Mask, epsilon: float) -> tuple[PersonTest, ...]:
    difference = losses.astype(np.float64) - wins
    p_values = [_p_value(difference[mine[:, i], i], epsilon) for i in range(len(names))]
    rejected = benjamini_yekutieli(p_values)
    return tuple(
        PersonTest(name, int(mine[:, i].sum()), float(wins[mine[:, i], i].mean()), p_values[i], rejected[i]) for i, name in enumerate(names)
    )


def _p_value(difference: Floats, epsilon: float) -> float:
    """Return p of the one-sided t test that the mean lies below epsilon; without spread, 0 or 1 by the mean itself.

    scipy.stats.ttest_1samp, which takes a second to import.
    """
    if np.ptp(difference) == 0:
        return 0.0 if difference[0] < epsilon else 1.0
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    return student_probability((float(difference.mean()) - epsilon) / error, len(difference) - 1)


def _mean_share(sums: Floats) -> Floats:
    people = sums.shape[1] // 2
    share = ratio(sums[:, :people], sums[:, people:])
    there = np.isfinite(share)
    return ratio(np.where(there, share, 0.0).sum(axis=1), there.sum(axis=1).astype(np.float64))
