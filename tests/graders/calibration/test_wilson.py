"""A pass rate and its Wilson interval."""

from math import sqrt

import numpy as np
import pytest

from graders.calibration.rates import wilson


def test_interval_by_hand():
    # 8 of 10, z = 1.959964: centre (0.8 + z^2/20) / (1 + z^2/10) = 0.992073 / 1.384146 = 0.716740,
    # half (z / 1.384146) sqrt(0.016 + z^2/400) = 1.416010 * 0.160008 = 0.226577
    rate = wilson(8, 10)
    assert (rate.value, rate.n) == (0.8, 10)
    assert (rate.low, rate.high) == pytest.approx((0.490162, 0.943318), abs=2e-6)


@pytest.mark.parametrize("passes, n, level", [(0, 7, 0.95), (7, 7, 0.95), (3, 7, 0.9), (812, 1600, 0.99)])
def test_agrees_with_scipy(passes, n, level):
    from scipy.stats import binomtest

    theirs = binomtest(passes, n).proportion_ci(level, method="wilson")
    ours = wilson(passes, n, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_passes_and_failures_mirror_each_other():
    passed, failed = wilson(4, 13), wilson(9, 13)
    assert (passed.low, passed.high) == pytest.approx((1 - failed.high, 1 - failed.low))


def test_four_times_the_outputs_halve_the_interval():
    small, large = wilson(50, 100), wilson(200, 400)
    assert (large.high - large.low) / (small.high - small.low) == pytest.approx(1 / 2, abs=0.01)


@pytest.mark.parametrize("passes", [0, 12])
def test_all_alike_still_has_a_width(passes):
    rate = wilson(passes, 12)
    assert rate.high - rate.low > 0.2


def test_no_output_is_no_rate():
    assert (wilson(0, 0).value, wilson(0, 0).why_missing) == (None, "not defined, because no output is scored")


@pytest.mark.parametrize("passes, n", [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(passes, n):
    with pytest.raises(ValueError, match=f"passes is {passes} of n = {n}"):
        wilson(passes, n)


def test_interval_covers_the_true_rate_as_often_as_it_says():
    n, rate = 60, 0.7
    passes = np.random.default_rng(20250101).binomial(n, rate, size=4000)
    bounds = {k: wilson(int(k), n) for k in np.unique(passes)}
    covered = np.mean([bounds[k].low <= rate <= bounds[k].high for k in passes])
    assert sqrt(0.95 * 0.05 / 4000) < 0.004  # the noise of the simulation
    assert 0.93 <= covered <= 0.97
