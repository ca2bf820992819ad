"""Which of two judges is better, and whether one has drifted."""

import numpy as np
import pytest

from graders.calibration.comparison import compare_judges, drift
from graders.calibration.errors import mae
from graders.calibration.jackknife import ends_of_difference
from graders.calibration.resample import Resamples
from graders.calibration.student import student_quantile

LABELS = (1, 2, 3, 4, 5)


def make_study(rng, n=120, noise_a=0.8, noise_b=0.8, bias_b=0.0):
    people = np.clip(np.round(3 + rng.standard_normal(n)), 1, 5)
    a = np.clip(np.round(people + noise_a * rng.standard_normal(n)), 1, 5)
    b = np.clip(np.round(people + bias_b + noise_b * rng.standard_normal(n)), 1, 5)
    return a, b, people


def compare(a, b, people, n_boot=400):
    draws = Resamples(range(len(a)), rng=np.random.default_rng(0), n_boot=n_boot)
    return compare_judges(a, b, people, LABELS, resamples=draws)


def of(comparison, name):
    return next(d for d in comparison.differences if d.name == name)


def test_a_difference_is_that_of_the_two_figures():
    a, b, people = make_study(np.random.default_rng(0))
    found = of(compare(a, b, people), "mae")
    assert (found.a, found.b) == (mae(a, people).value, mae(b, people).value)
    assert found.difference.value == pytest.approx(found.b - found.a)


def test_the_interval_of_a_difference_is_narrower_than_two_judges_alike_suggest():
    rng = np.random.default_rng(1)
    a, _, people = make_study(rng)
    b = np.where(rng.random(len(a)) < 0.1, np.clip(a + 1, 1, 5), a)  # nearly the same judge
    draws = Resamples(range(len(a)), rng=np.random.default_rng(0), n_boot=400)
    alone, paired = mae(a, people, draws), of(compare(a, b, people), "mae").difference
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_scores_too_rare_to_have_been_seen_widen_a_difference_by_what_they_would_change_of_it():
    """An output more on which everybody agrees raises both kappas: what it raises them by alike says nothing of the difference."""
    values, without = (0.4, 0.5), (np.array([0.38, 0.4, 0.42]), np.array([0.5, 0.47, 0.53]))
    low, high = ends_of_difference(values, without, 0.95)
    assert ends_of_difference(values, without, 0.95, (np.array([0.6, 0.4]), np.array([0.7, 0.5]))) == pytest.approx((low, high))
    b_would_gain = ends_of_difference(values, without, 0.95, (np.array([0.4, np.nan]), np.array([0.7, np.nan])))
    assert b_would_gain[0] == pytest.approx(low) and b_would_gain[1] > high + 0.05
    a_would_gain = ends_of_difference(values, without, 0.95, (np.array([0.6]), np.array([0.5])))
    assert a_would_gain[0] < low - 0.05 and a_would_gain[1] == pytest.approx(high)
    assert ends_of_difference(values, without, 0.95, (None, np.array([0.9]))) == (low, high)


@pytest.mark.parametrize("noise_a, noise_b, verdict", [(1.5, 0.4, "b"), (0.4, 1.5, "a")])
def test_a_judge_that_is_clearly_better_is_named(noise_a, noise_b, verdict):
    found = compare(*make_study(np.random.default_rng(2), noise_a=noise_a, noise_b=noise_b))
    assert found.verdict == verdict and found.text.startswith(f"{verdict.upper()} is better than")


def test_the_same_judge_twice_shows_no_difference():
    a, _, people = make_study(np.random.default_rng(3))
    found = compare(a, a, people)
    assert found.verdict == "" and {d.difference.value for d in found.differences} == {0.0}


def test_two_judges_alike_are_seldom_told_apart():
    rng = np.random.default_rng(4)
    wrong = sum(compare(*make_study(rng, n=60), n_boot=300).verdict != "" for _ in range(120))
    assert wrong <= 12  # 5 % of 120, and some


def test_a_judge_that_ranks_better_but_is_biased_is_mixed():
    found = compare(*make_study(np.random.default_rng(5), n=300, noise_a=1.2, noise_b=0.2, bias_b=-1.8))
    assert found.verdict == "mixed" and "A in error" in found.text


def test_gain_tells_which_outputs_got_nearer_to_people():
    found = compare_judges([1, 5, 3], [2, 4, None], [2, 5, 3], LABELS, resamples=Resamples(range(3), rng=np.random.default_rng(0)))
    assert found.gain[:2].tolist() == [1.0, -1.0] and np.isnan(found.gain[2])
    assert (found.n, found.n_dropped) == (2, 1)


def test_without_an_output_of_both_nothing_is_compared():
    found = compare_judges([1, None], [None, 2], [1, 2], LABELS, resamples=Resamples(range(2), rng=np.random.default_rng(0)))
    assert found.text == "not defined, because no output has the scores of both judges and of a person"
    assert all(d.difference.value is None for d in found.differences)


def test_a_constant_judge_has_no_correlation_to_compare():
    a, _, people = make_study(np.random.default_rng(6))
    found = of(compare(np.full(len(a), 3.0), a, people), "spearman")
    assert found.difference.why_missing == f"not defined, because the judge gives all {len(a)} outputs the score 3"


def drawn(n):
    return Resamples(range(n), rng=np.random.default_rng(0), n_boot=400)


@pytest.mark.parametrize("shift, verdict", [(0.0, "steady"), (1.0, "drifted"), (-1.0, "drifted")])
def test_drift_is_told_from_steadiness(shift, verdict):
    rng = np.random.default_rng(7)
    earlier = rng.integers(2, 5, 200).astype(float)
    later = earlier + shift + rng.choice([-1, 0, 0, 0, 1], 200)
    assert drift(earlier, later, drawn(200), tolerance=0.25).verdict == verdict


def test_few_anchors_can_not_tell():
    found = drift([3, 3, 4, 2], [3, 4, 3, 2], drawn(4), tolerance=0.1)
    assert found.verdict == "unknown" and "can't be ruled out" in found.text


def test_without_anchors_there_is_no_drift():
    assert drift([None], [3], drawn(1), tolerance=0.1).text == "not defined, because no output was scored at both times"


@pytest.mark.parametrize("change", [[0, 0, 0, 4], [1, -1, 2, 0]])
def test_a_shift_has_student_s_interval_whatever_a_few_prompts_make_of_it(change):
    found = drift([1, 2, 1, 1], np.array([1, 2, 1, 1]) + change, Resamples(range(4), rng=np.random.default_rng(0)), tolerance=0.1).shift
    half = student_quantile(3, 0.975) * np.std(change, ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((np.mean(change) - half, np.mean(change) + half))
