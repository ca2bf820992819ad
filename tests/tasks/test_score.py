"""The weighted score and the pass: hand arithmetic stands beside each number."""

from __future__ import annotations

import pytest

from tasks.task import Criterion, Rubric, count_passed, is_pass, weighted_overall
from tests.tasks.folders import IDEA_WEIGHTS, count_rubric, idea_rubric


def ideas(*scores: float | None) -> dict[str, float | None]:
    return dict(zip(IDEA_WEIGHTS, scores, strict=True))


def passes(rubric: Rubric, scores: dict[str, float | None], runs: bool | None = None) -> bool | None:
    return is_pass(rubric, scores, weighted_overall(rubric, scores), runs)


def test_overall_is_the_weighted_mean():
    # 0.30*6 + 0.25*8 + 0.30*4 + 0.15*7 = 1.8 + 2.0 + 1.2 + 1.05
    assert weighted_overall(idea_rubric(), ideas(6, 8, 4, 7)) == 6.05


def test_a_review_scored_8_passes():
    assert passes(idea_rubric(), ideas(8, 8, 8, 8)) is True


def test_ideas_scored_5_6_fail():
    # 0.30*6 + 0.25*6 + 0.30*5 + 0.15*5.333... = 5.6
    assert weighted_overall(idea_rubric(), ideas(6, 6, 5, 16 / 3)) == 5.6
    assert passes(idea_rubric(), ideas(6, 6, 5, 16 / 3)) is False


def test_exactly_the_threshold_passes_whatever_the_order_of_the_sum():
    assert passes(idea_rubric(), ideas(7, 7, 7, 7)) is True
    # 0.30*6.1 + 0.25*7.9 + 0.30*7.4 + 0.15*6.5 = 1.83 + 1.975 + 2.22 + 0.975
    assert passes(idea_rubric(), ideas(6.1, 7.9, 7.4, 6.5)) is True


def test_just_below_the_threshold_fails():
    assert passes(idea_rubric(), ideas(7, 7, 7, 6.99)) is False


def test_weights_are_relative():
    criteria = (Criterion("a", "a", weight=3), Criterion("b", "b", weight=1))
    # (3*8 + 1*4) / 4
    assert weighted_overall(Rubric(criteria), {"a": 8, "b": 4}) == 7.0


def test_unscored_criterion_stays_out_of_the_mean_and_is_not_zero():
    # (0.30*6 + 0.25*8 + 0.15*7) / 0.70 = 4.85 / 0.70
    assert weighted_overall(idea_rubric(), ideas(6, 8, None, 7)) == 6.9286
    assert weighted_overall(idea_rubric(), {"viability": 6}) == 6.0


def test_nothing_scored_is_neither_pass_nor_fail():
    assert weighted_overall(idea_rubric(), {}) is None
    assert passes(idea_rubric(), {}) is None


def test_without_a_threshold_there_is_no_pass():
    assert passes(Rubric((Criterion("a", "a"),)), {"a": 9}) is None


def test_a_criterion_with_its_own_scale_is_rescaled():
    criteria = (Criterion("a", "a", scale=(1, 5)), Criterion("b", "b"))
    # 4 on 1-5 is three quarters of the way: 7.5 on 0-10; (7.5 + 5) / 2
    assert weighted_overall(Rubric(criteria), {"a": 4, "b": 5}) == 6.25
    assert weighted_overall(Rubric(criteria), {"a": 1, "b": 0}) == 0.0
    assert weighted_overall(Rubric(criteria), {"a": 5, "b": 10}) == 10.0


def test_overall_stands_on_the_scale_of_the_rubric():
    criteria = (Criterion("a", "a", scale=(0, 1)), Criterion("b", "b", scale=(1, 5)))
    rubric = Rubric(criteria, scale=(1, 5), pass_threshold=3)
    # half of 0-1 is 3 on 1-5; (3 + 4) / 2
    assert weighted_overall(rubric, {"a": 0.5, "b": 4}) == 3.5
    assert passes(rubric, {"a": 0.5, "b": 4}) is True


def test_categorical_criterion_has_no_part_in_the_overall():
    winner = Criterion("winner", "winner", weight=9, kind="categorical", values=("a", "b"))
    rubric = Rubric((Criterion("depth", "depth"), winner))
    assert weighted_overall(rubric, {"depth": 6, "winner": None}) == 6.0
    assert weighted_overall(Rubric((winner,)), {}) is None


def test_categorical_criterion_has_no_part_in_the_count():
    winner = Criterion("winner", "winner", kind="categorical", values=("a", "b"))
    rubric = Rubric((*count_rubric(2).criteria, winner), pass_rule="count")
    assert count_passed(rubric, {"a": 10, "b": 10}) == (2, 0)
    assert passes(rubric, {"a": 10, "b": 10}) is True


def test_count_score_is_the_share_of_what_is_needed():
    # 2 of 3 needed, on 0-10
    assert weighted_overall(count_rubric(), {"a": 10, "b": 10, "c": 0}) == 6.6667
    assert passes(count_rubric(), {"a": 10, "b": 10, "c": 0}) is False


def test_more_than_needed_scores_no_more_than_full():
    rubric = count_rubric(4, min_passed=2)
    assert weighted_overall(rubric, {"a": 10, "b": 10, "c": 10, "d": 0}) == 10.0
    assert passes(rubric, {"a": 10, "b": 10, "c": 10, "d": 0}) is True


def test_six_of_eighteen_pass_and_five_fail():
    rubric = count_rubric(10, min_passed=6)
    scores = dict.fromkeys("abcdefghij", 0.0)
    assert passes(rubric, scores | dict.fromkeys("abcdef", 10.0)) is True
    assert passes(rubric, scores | dict.fromkeys("abcde", 10.0)) is False


def test_an_undecided_criterion_that_could_change_the_pass_leaves_it_open():
    assert passes(count_rubric(), {"a": 10, "b": 10, "c": None}) is None
    assert weighted_overall(count_rubric(), {"a": 10, "b": 10}) is None


def test_an_undecided_criterion_that_cannot_change_the_pass_leaves_it_decided():
    enough = count_rubric(4, min_passed=2)
    assert passes(enough, {"a": 10, "b": 10, "c": None, "d": None}) is True
    assert weighted_overall(enough, {"a": 10, "b": 10}) == 10.0
    assert passes(count_rubric(), {"a": 0, "b": 10, "c": None}) is False


def test_all_criteria_of_a_submission_that_crashed_do_not_make_a_pass():
    full = dict.fromkeys("abc", 10.0)
    assert passes(count_rubric(), full, runs=False) is False
    assert passes(count_rubric(), full, runs=True) is True
    assert passes(count_rubric(requires_run=False), full, runs=False) is True


def test_a_person_who_ran_nothing_can_pass_a_submission():
    assert passes(count_rubric(), dict.fromkeys("abc", 10.0), runs=None) is True


def test_a_crash_fails_a_scored_rubric_that_requires_a_run():
    rubric = Rubric((Criterion("a", "a"),), pass_threshold=7, requires_run=True)
    assert passes(rubric, {"a": 9}, runs=False) is False


@pytest.mark.parametrize(("score", "expected"), [(10, 1), (5.1, 1), (5, 0), (0, 0)])
def test_only_the_upper_half_of_a_scale_counts_as_passed(score, expected):
    assert count_passed(count_rubric(1), {"a": score}) == (expected, 0)
