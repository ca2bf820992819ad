"""An estimate is a number with an interval, or a reason: never NaN, never a silent 0."""

import math

import pytest

from graders.calibration.result import Estimate


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match="must be a finite number, or None with why_missing"):
        Estimate(number, None, None, n=3)


def test_a_missing_value_needs_a_reason():
    with pytest.raises(ValueError, match="why_missing is ''"):
        Estimate(None, None, None, n=0)


def test_a_value_may_stand_without_an_interval_when_it_says_why():
    assert Estimate(0.5, None, None, n=3, why_missing="one prompt").value == 0.5


def test_a_complete_estimate_has_no_reason_for_missing():
    with pytest.raises(ValueError, match="why_missing is 'hm'"):
        Estimate(0.5, 0.4, 0.6, n=3, why_missing="hm")


@pytest.mark.parametrize("low, high", [(0.1, None), (None, 0.9)])
def test_an_interval_has_both_ends(low, high):
    with pytest.raises(ValueError, match="an interval has both ends"):
        Estimate(0.5, low, high, n=3)


def test_a_value_lies_in_its_interval():
    with pytest.raises(ValueError, match="outside its interval"):
        Estimate(0.5, 0.6, 0.9, n=3)
