"""Intervals of 95 % hold the truth about 95 times in 100: the short version of `make bench`'s 2,000 studies a cell."""

import pytest

from bench.bench_coverage import ESTIMATORS, coverage

STUDIES = 120  # one standard error is 2 points


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("n, rate, judge", [(20, "near 0", "useless"), (50, "near 1", "biased"), (200, "middle", "good")])
def test_intervals_hold_the_truth(name, n, rate, judge):
    held, _ = coverage(name, n, rate, judge, studies=STUDIES)
    assert held >= 0.89
    if n == 200:  # with few labels, or prompts, intervals are cautious
        assert held <= 0.995
