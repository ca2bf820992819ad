"""The word for where a pass rate lies beside the target band."""

import pytest

from graders.calibration.rates import wilson
from reviewapp.calibration.figures import figure, missing
from reviewapp.calibration.target import target_of
from reviewapp.models import Task

TASK = Task(band_low=0.05, band_high=0.3)
NONE = missing("no output has a human label")


@pytest.mark.parametrize(
    ("n_passed", "word"),
    [(20, "in band"), (30, "undecided"), (5, "undecided"), (0, "too hard"), (60, "too easy")],
)
def test_a_word_stands_only_where_the_whole_interval_lies_there(n_passed, word):
    """Wilson's: 20 of 100 is 13 to 29 %, 30 of 100 22 to 40 %, 5 of 100 2 to 11 %, none of 100 0 to 3.7 %."""
    assert target_of(TASK, NONE, figure(wilson(n_passed, 100)), "judge").word == word


def test_a_rate_without_an_interval_decides_nothing():
    rate = {"value": 0.9, "ci": None, "n": 4, "why_missing": "all human labels belong to one prompt"}
    assert target_of(TASK, rate, NONE, "judge").word == "undecided"


def test_the_corrected_rate_comes_before_that_of_the_judge_alone():
    easy, hard = figure(wilson(90, 100)), figure(wilson(0, 100))
    assert (target_of(TASK, easy, hard, "judge").word, target_of(TASK, easy, hard, "judge").by) == ("too easy", "corrected")
    assert (target_of(TASK, NONE, hard, "people").word, target_of(TASK, NONE, hard, "people").by) == ("too hard", "people")
    assert target_of(TASK, NONE, NONE, "judge").word == target_of(TASK, NONE, NONE, "judge").by == ""
