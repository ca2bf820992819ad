"""Whether the judge ranks outputs as well as one more reviewer would."""

import numpy as np
import pytest

from graders.calibration.rank import second_reviewer
from graders.calibration.resample import Resamples


def make_panel(noise: float, n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    quality = rng.normal(5, 2, size=(n, 1))
    human = np.clip(np.round(quality + rng.normal(0, 1, size=(n, 3))), 0, 10)
    return np.clip(np.round(quality[:, 0] + rng.normal(0, noise, n)), 0, 10), human


def test_judge_and_person_are_held_to_the_mean_of_the_other_people():
    judge, human = make_panel(1.5)
    rest = [np.delete(human, person, axis=1).mean(axis=1) for person in range(3)]
    from scipy.stats import spearmanr

    by_scipy = [np.mean([spearmanr(side(i), rest[i]).statistic for i in range(3)]) for side in (lambda i: judge, lambda i: human[:, i])]
    found = second_reviewer(judge, human, np.zeros(len(judge), dtype=int))
    assert (found.judge.value, found.people.value) == pytest.approx(by_scipy)
    assert found.difference.value == pytest.approx(by_scipy[0] - by_scipy[1])


@pytest.mark.parametrize("noise, low, high", [(0.3, 0.01, 1), (1, -0.05, 0.05), (4, -1, -0.05)])
def test_a_sharper_judge_ranks_better_than_a_person_and_a_vaguer_one_worse(noise, low, high):
    judge, human = make_panel(noise)
    found = second_reviewer(judge, human, [0] * 200, Resamples(range(200), rng=np.random.default_rng(1))).difference
    assert low < found.value < high
    assert found.low < found.value < found.high


def test_the_criteria_alone_make_no_correlation():
    judge, human = make_panel(1.0)
    shifted = np.concatenate([judge, judge + 20]), np.concatenate([human, human + 20])
    apart = second_reviewer(judge, human, [0] * 200)
    together = second_reviewer(*shifted, [0] * 200 + [1] * 200)
    assert together.judge.value == pytest.approx(apart.judge.value)


def test_who_gave_a_review_does_not_matter():
    judge, human = make_panel(1.0, n=40)
    spread = np.full((40, 120), np.nan)  # each review by a person of its own
    spread[np.arange(40)[:, None], 3 * np.arange(40)[:, None] + np.arange(3)] = human
    one, other = (second_reviewer(judge, table, [0] * 40) for table in (human, spread))
    assert one.people.value == pytest.approx(other.people.value)


@pytest.mark.parametrize(
    "human, why",
    [
        (np.full((30, 1), 3.0), "no output has scores of the judge and of two people"),
        (np.full((30, 2), np.nan), "no output has scores of the judge and of two people"),
        (np.full((30, 2), 3.0), "fewer than 10 outputs"),
    ],
)
def test_without_two_people_whose_scores_differ_there_is_none(human, why):
    found = second_reviewer(np.arange(30.0), human, [0] * 30)
    assert found.difference.value is None and why in found.difference.why_missing
