"""Agreement and ranking from labels that were drawn with unequal probabilities."""

import numpy as np
import pytest

from graders.calibration import agreement, alpha, errors, rank
from graders.calibration.by_chance import ac2_by_chance, alpha_by_chance, correlation_by_chance, kappa_by_chance, mean_by_chance
from graders.calibration.drawn import Population
from graders.calibration.resample import Resamples

LABELS = (1, 2, 3, 4, 5)


def make_study(n: int = 90):
    rng = np.random.default_rng(1)
    quality = rng.standard_normal(n)
    human = np.clip(np.round(3 + quality[:, None] + 0.7 * rng.standard_normal((n, 3))), 1, 5)
    judge = np.clip(np.round(3.4 + quality + 0.8 * rng.standard_normal(n)), 1, 5)
    judge[3], human[5, 1] = np.nan, np.nan
    return judge, human


def by_chance(judge, human, weights, draws, strata=None):
    given = {"weights": weights, "resamples": draws, "strata": strata}
    return {
        "kappa": kappa_by_chance(judge, human, LABELS, **given),
        "AC2": ac2_by_chance(judge, human, LABELS, **given),
        "Pearson": correlation_by_chance("pearson", judge, human, **given),
        "Spearman": correlation_by_chance("spearman", judge, human, **given),
        "alpha": alpha_by_chance(human, "interval", labels=LABELS, **given),
        "alpha of the judge": alpha_by_chance(human, "ordinal", labels=LABELS, judge=judge, **given),
        "bias": mean_by_chance(judge - np.nanmean(human, axis=1), kind="points", **given),
    }


def plain(judge, human, draws):
    return {
        "kappa": agreement.weighted_kappa(judge, human, LABELS, rng=np.random.default_rng(0), resamples=draws),
        "AC2": agreement.gwet_ac2(judge, human, LABELS, draws),
        "Pearson": rank.pearson(judge, human, draws),
        "Spearman": rank.spearman(judge, human, draws),
        "alpha": alpha.krippendorff_alpha(human, "interval", draws, LABELS),
        "alpha of the judge": alpha.judge_alpha(judge, human, "ordinal", draws, LABELS),
        "bias": errors.bias(judge, human, draws),
    }


@pytest.mark.parametrize("outputs_a_prompt", [1, 3])
def test_equal_weights_change_no_digit(outputs_a_prompt):
    judge, human = make_study()
    draws = Resamples(np.arange(90) // outputs_a_prompt, rng=np.random.default_rng(0))
    of_all, alike = by_chance(judge, human, np.full(90, 3.7), draws), plain(judge, human, draws)
    for name, found in of_all.items():
        expected = alike[name]
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-10), name
        assert (found.n, found.n_dropped) == (expected.n, expected.n_dropped), name


def test_a_weight_of_two_is_an_output_that_is_there_twice():
    judge, human = make_study()
    times = np.random.default_rng(2).integers(1, 4, 90)
    twice = np.repeat(np.arange(90), times)
    draws, more = Resamples(np.arange(90), rng=np.random.default_rng(0)), Resamples(twice, rng=np.random.default_rng(0))
    of_all, repeated = by_chance(judge, human, times, draws), plain(judge[twice], human[twice], more)
    for name, found in of_all.items():
        # Alpha counts pairs of scores without those of a score with itself: so many more scores, so little less of it.
        assert found.value == pytest.approx(repeated[name].value, abs=3e-3 if "alpha" in name else 1e-12), name


def test_a_fixed_number_in_each_stratum_makes_intervals_shorter_where_strata_differ():
    """Judge and people agree on the outputs of one stratum, and differ on those of the other."""
    rng = np.random.default_rng(3)
    human = rng.integers(1, 6, 80).astype(float)
    strata = np.arange(80) % 2
    judge = np.where(strata == 1, np.clip(human + 2, 1, 5), human)
    draws, weights = Resamples(np.arange(80), rng=rng), np.where(strata == 1, 1.0, 3.0)
    apart, by_strata = by_chance(judge, human[:, None], weights, draws), by_chance(judge, human[:, None], weights, draws, strata)
    for name in ("kappa", "AC2", "bias"):
        assert by_strata[name].value == apart[name].value
        assert by_strata[name].high - by_strata[name].low < 0.9 * (apart[name].high - apart[name].low), name
    assert by_strata["bias"].high - by_strata["bias"].low == pytest.approx(2 * 1.99 * _stratified_error(judge - human, strata), rel=0.03)


def test_about_others_of_the_kind_an_interval_is_as_much_longer_as_the_strata_s_shares_vary():
    """Of 200 outputs three in four are of one stratum; in another 200 of the kind it would be some more, or fewer."""
    rng = np.random.default_rng(5)
    everybody = np.arange(200) % 4 == 0
    places = np.concatenate([np.flatnonzero(everybody)[:20], np.flatnonzero(~everybody)[:20]])
    apart = np.where(everybody[places], 2.0, 0.0) + rng.normal(0, 0.2, 40)
    weights = np.where(everybody[places], 2.5, 7.5)
    about_these = mean_by_chance(apart, weights, Resamples(np.arange(40), rng=rng), "points", strata=everybody[places])
    found = {}
    for name, prompts in (("alone", np.arange(200)), ("alike", np.arange(200) // 20 + 1000 * everybody)):
        draws, population = Resamples(prompts[places], rng=rng), Population(everybody, prompts, places)
        found[name] = mean_by_chance(apart, weights, draws, "points", population=population)
        assert found[name].value == about_these.value

    means = np.array([apart[everybody[places] == side].mean() for side in (False, True)])
    shares = 0.75 * (means[0] - about_these.value) ** 2 + 0.25 * (means[1] - about_these.value) ** 2
    both = _width(about_these) ** 2 + (2 * 2.023) ** 2 * shares / 200
    assert _width(found["alone"]) ** 2 == pytest.approx(both, rel=0.1)
    assert _width(found["alike"]) > 1.5 * _width(found["alone"])  # prompts that lie in one stratum each move its share by more


def _width(found):
    return found.high - found.low


def _stratified_error(apart, strata):
    """Of the mean with three quarters of the outputs in stratum 0."""
    variances = [share**2 * apart[strata == h].var(ddof=1) / (strata == h).sum() for h, share in ((0, 0.75), (1, 0.25))]
    return sum(variances) ** 0.5


def test_a_label_without_a_weight_is_left_out():
    judge, human = make_study(20)
    weights = np.ones(20)
    weights[:4] = np.nan
    draws = Resamples(np.arange(20), rng=np.random.default_rng(0))
    found = correlation_by_chance("pearson", judge, human, weights, draws)
    assert (found.n, found.n_dropped) == (16, 4) and found.value == pytest.approx(rank.pearson(judge[4:], human[4:]).value)
    none = mean_by_chance(judge, np.full(20, np.nan), draws, "points")
    assert none.why_missing == "not defined, because no output with both scores was drawn with a known probability"
