"""Which of two judges is better, and whether one has drifted."""

import numpy as np
import pytest

from graders.calibration.comparison import compare_categories, compare_judges, drift
from graders.calibration.errors import mae
from graders.calibration.jackknife import ends_of_difference
from graders.calibration.rank import kendall_b, pearson, spearman, within
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


def test_a_prompt_that_moves_both_alike_takes_no_certainty_from_their_difference():
    """One of 20 prompts makes nearly all of each figure's spread, and none of the difference's: of 0.1 on 19 degrees of freedom."""
    shared, own = np.zeros(20), np.tile([0.01, -0.01], 10)
    shared[0] = 0.2
    without = (shared - shared.mean(), shared - shared.mean() + own)
    error = float(np.sqrt(19 / 20 * (own**2).sum()))
    low, high = ends_of_difference((0.0, 0.0), without, 0.95)
    assert (high - low) / 2 == pytest.approx(student_quantile(19, 0.975) * error, rel=0.1)


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


def make_two_criteria(rng, n=150):
    """The second criterion scores high with everyone. Judge a follows that alone, b ranks inside each criterion and not between them."""
    criterion = np.repeat([0, 1], n)
    people = np.where(criterion, 4, 2) + rng.integers(-1, 2, 2 * n)
    a = np.where(criterion, 4, 2) + rng.integers(-1, 2, 2 * n)
    b = 3 + (people - np.where(criterion, 4, 2)) * (rng.random(2 * n) < 0.8)
    return a.astype(float), b.astype(float), people.astype(float), criterion


@pytest.mark.parametrize("name, correlation", [("spearman", spearman), ("kendall_b", kendall_b), ("pearson", pearson)])
@pytest.mark.parametrize("n", [40, 150])  # each prompt left out, and prompts drawn
def test_over_several_criteria_ranking_is_that_within_them(name, correlation, n):
    a, b, people, criterion = make_two_criteria(np.random.default_rng(8), n)
    draws = Resamples([*range(n), *range(n)] if n == 40 else range(2 * n), rng=np.random.default_rng(0), n_boot=400)
    pooled = of(compare_judges(a, b, people, LABELS, resamples=draws), name)
    inside = of(compare_judges(a, b, people, LABELS, resamples=draws, groups=criterion), name)
    assert pooled.better != "b" and inside.better == "b"
    assert [inside.a, inside.b] == pytest.approx([within(correlation, x, people, criterion).value for x in (a, b)])
    assert 0 < inside.difference.low < inside.difference.value < inside.difference.high < 2


def test_one_criterion_alone_is_compared_as_without_criteria():
    a, b, people = make_study(np.random.default_rng(9), n=60, noise_a=1.5)
    draws = drawn(60)
    assert compare_judges(a, b, people, LABELS, resamples=draws, groups=["fluency"] * 60).differences == (
        compare_judges(a, b, people, LABELS, resamples=draws).differences
    )


def test_both_are_held_to_the_criteria_in_which_both_have_a_correlation():
    a, b, people, criterion = make_two_criteria(np.random.default_rng(10))
    a[criterion == 1] = 4.0  # says nothing there
    found = of(compare_judges(a, b, people, LABELS, resamples=drawn(300), groups=criterion), "spearman")
    first = criterion == 0
    assert (found.a, found.b) == pytest.approx([spearman(x[first], people[first]).value for x in (a, b)])
    assert (found.difference.n, found.difference.n_dropped) == (150, 150)


def test_two_judges_that_say_the_same_need_no_more_labels():
    a, _, people = make_study(np.random.default_rng(11))
    assert compare(a, a, people).text == "There is no difference: both judges gave the same 120 scores."


def test_of_categories_the_judge_that_gives_peoples_more_often_is_named():
    people = np.array([[i % 3, i % 3 if i % 4 else (i + 1) % 3] for i in range(60)], dtype=float)
    a, b = np.zeros(60), people[:, 0]
    found = compare_categories(a, b, people, resamples=drawn(60))
    assert (found.verdict, found.text) == ("b", "B gives the category that people give more often than A.")
    share = found.differences[0]
    assert share.a == pytest.approx((people == 0).mean()) and share.b == pytest.approx((people == b[:, None]).mean())
    assert 0 < share.difference.low < share.b - share.a < share.difference.high


def test_of_categories_an_output_without_all_three_is_left_out():
    found = compare_categories([0, 1, None], [0, None, 2], [[0, 2], [1, None], [2, 2]], resamples=drawn(3))
    assert (found.n, found.n_dropped, found.differences[0].a) == (1, 2, 0.5)
    none = compare_categories([None], [0], [1], resamples=drawn(1))
    assert none.verdict == "" and none.differences[0].difference.why_missing == none.text


def test_categories_alike_are_not_told_apart():
    people = np.arange(60) % 3
    found = compare_categories((people + (people == 0)) % 3, (people + (people == 1)) % 3, people, resamples=drawn(60))
    assert found.text == "No difference shows on 60 answers: more labels would be needed to tell these two apart."


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
