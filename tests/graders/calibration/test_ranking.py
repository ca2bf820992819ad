"""A ranking from comparisons in pairs."""

import numpy as np
import pytest

from graders.calibration.ranking import bradley_terry
from graders.calibration.resample import Resamples

NAMES = ["a", "b", "c", "d"]
TRUE = np.array([1.5, 0.5, -0.5, -1.5])


def make_games(rng, n=400, ties=0.2):
    x, y = rng.integers(4, size=n), rng.integers(4, size=n)
    y = np.where(x == y, (y + 1) % 4, y)
    wins = rng.random(n) < 1 / (1 + np.exp(TRUE[y] - TRUE[x]))
    outcome = np.where(rng.random(n) < ties, 0.5, wins.astype(float))
    return [NAMES[i] for i in x], [NAMES[i] for i in y], outcome


def test_of_two_players_the_strength_is_the_log_odds_with_half_a_tie_added_to_each():
    # a won 2.5 of 4; with a made-up average player m (strength 0 by symmetry) and half a tie each: solved by hand below
    ratings = {r.name: r.strength.value for r in bradley_terry(["a", "a", "b", "a"], ["b", "b", "a", "b"], [1, 1, 1, 0.5])}
    gap = ratings["a"] - ratings["b"]
    # a's expected wins: 4 p(gap) + .5 p(gap / 2), observed 2.5 + .25
    expected = 4 / (1 + np.exp(-gap)) + 0.5 / (1 + np.exp(-gap / 2))
    assert expected == pytest.approx(2.75, abs=1e-4)


def test_the_strongest_comes_first_and_intervals_hold_the_truth():
    held = []
    for seed in range(10):
        first, second, outcome = make_games(np.random.default_rng(seed), ties=0.0)
        ratings = bradley_terry(first, second, outcome, Resamples(range(400), rng=np.random.default_rng(1), n_boot=60))
        assert [r.name for r in ratings] == NAMES
        held += [r.strength.low <= true <= r.strength.high for r, true in zip(ratings, TRUE, strict=True)]
        assert all(0 < r.beats_average.low < r.beats_average.high < 1 for r in ratings)
    assert np.mean(held) >= 0.8


def test_strengths_are_those_of_a_logistic_regression():
    first, second, outcome = make_games(np.random.default_rng(3))
    x, y = (np.array([NAMES.index(name) for name in side]) for side in (first, second))

    def loss(b):
        gap = b[x] - b[y]
        games = outcome * np.logaddexp(0, -gap) + (1 - outcome) * np.logaddexp(0, gap)
        return games.sum() + 0.25 * (np.logaddexp(0, -b) + np.logaddexp(0, b)).sum()  # the half tie with an average player

    from scipy.optimize import minimize

    expected = minimize(loss, np.zeros(4)).x
    found = {r.name: r.strength.value for r in bradley_terry(first, second, outcome)}
    assert [found[name] for name in NAMES] == pytest.approx(list(expected - expected.mean()), abs=1e-3)


def test_ties_draw_players_together():
    spread = []
    for ties in (0.0, 0.6):
        ratings = bradley_terry(*make_games(np.random.default_rng(2), ties=ties))
        spread.append(ratings[0].strength.value - ratings[-1].strength.value)
    assert spread[1] < spread[0]


def test_who_won_everything_has_a_finite_strength():
    best = bradley_terry(["a"] * 5, ["b"] * 5, [1] * 5)[0]
    assert best.name == "a" and 0 < best.strength.value < 5


@pytest.mark.parametrize(
    "first, second, outcome, why",
    [
        ([], [], [], ()),
        (["a"], ["b"], [None], ("not defined, because nothing was compared",)),
        (["a", "c"], ["b", "d"], [1, 1], ("not defined, because not all players are linked by comparisons",)),
    ],
)
def test_no_ranking_without_links(first, second, outcome, why):
    assert {r.strength.why_missing for r in bradley_terry(first, second, outcome)} == set(why)


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match=r"outcome has 2, allowed: 1 the first, 0\.5 a tie, 0 the second"):
        bradley_terry(["a"], ["b"], [2])
