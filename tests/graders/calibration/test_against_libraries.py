"""Our point values are those of the named libraries, on made-up scores with ties and missing cells."""

import math
import subprocess
import sys

import numpy as np
import pytest

from graders.calibration import agreement, alpha, decision, icc, probes, rank, reliability
from graders.calibration.alt_test import benjamini_yekutieli
from graders.calibration.passes import clopper_pearson, pass_at_k
from graders.calibration.recalibration import recalibrate
from graders.calibration.student import student_probability, student_quantile


def make_ratings(seed: int, n: int = 120, raters: int = 4, missing: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    quality = rng.normal(3, 1, size=(n, 1))
    table = np.clip(np.round(quality + rng.normal(0, 0.8, size=(n, raters))), 1, 5)
    return np.where(rng.random(table.shape) < missing, np.nan, table)


@pytest.mark.parametrize("metric", alpha.METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_that_of_krippendorff(metric, seed):
    krippendorff = pytest.importorskip("krippendorff")
    table = make_ratings(seed)
    theirs = krippendorff.alpha(reliability_data=table.T, level_of_measurement=metric)
    assert alpha.krippendorff_alpha(table, metric).value == pytest.approx(theirs, abs=1e-12)


def test_alpha_of_the_judge_is_that_of_krippendorff_on_pairs_of_judge_and_person():
    krippendorff = pytest.importorskip("krippendorff")
    table = make_ratings(7)
    pairs = np.array([[row[0], score] for row in table for score in row[1:]])
    theirs = krippendorff.alpha(reliability_data=pairs.T, level_of_measurement="ordinal")
    assert alpha.judge_alpha(table[:, 0], table[:, 1:], "ordinal").value == pytest.approx(theirs, abs=1e-12)


def test_intraclass_correlations_are_those_of_pingouin():
    pingouin, pandas = pytest.importorskip("pingouin"), pytest.importorskip("pandas")
    table = make_ratings(3, missing=0)
    item, rater = np.indices(table.shape)
    long = pandas.DataFrame({"item": item.ravel(), "rater": rater.ravel(), "score": table.ravel()})
    theirs = pingouin.intraclass_corr(long, targets="item", raters="rater", ratings="score")["ICC"].to_numpy()
    assert (icc.icc1(table).value, icc.icc2k(table).value) == pytest.approx((theirs[0], theirs[4]), abs=1e-9)


def test_ac2_is_that_of_irrcac():
    # irrCAC 0.4.4 (needs numpy 1, so not installed here): CAC(frame, weights="quadratic", categories=[1..5], digits=10).gwet()
    human = [4, 5, 1, 5, 3, 3, 4, 2, 5, 1, 2, 2, 3, 3, 1, 1, 1, 1, 1, 5, 1, 4, 4, 2, 2, 3, 2, 5, 1, 5, 4, 5, 1, 2, 4, 3, 4, 4, 4, 1]
    judge = [5, 5, 2, 4, 3, 4, 3, 1, 5, 2, 1, 3, 3, 2, 1, 2, 2, 2, 1, 4, 2, 5, 5, 1, 1, 3, 2, 5, 2, 4, 4, 4, 1, 3, 3, 2, 3, 3, 3, 2]
    assert agreement.gwet_ac2(judge, human, (1, 2, 3, 4, 5)).value == pytest.approx(0.8206416699, abs=1e-10)


@pytest.mark.parametrize("decimals", [0, 6])
def test_correlations_are_those_of_scipy(decimals):
    from scipy import stats

    rng = np.random.default_rng(4)
    human = rng.normal(size=150)
    judge = np.round(human + rng.normal(size=150), decimals)
    human = np.round(human, decimals)
    for ours, theirs in ((rank.pearson, stats.pearsonr), (rank.spearman, stats.spearmanr), (rank.kendall_b, stats.kendalltau)):
        assert ours(judge, human).value == pytest.approx(theirs(judge, human).statistic, abs=1e-12)


def test_decisions_are_those_of_scikit_learn():
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(5)
    human = rng.integers(0, 2, 80)
    judge = np.where(rng.random(80) < 0.8, human, 1 - human)
    made = decision.decide(judge, human)
    precision, recall, f1, _ = precision_recall_fscore_support(human, judge, average="binary")
    assert (made.precision.value, made.recall.value, made.f1.value) == pytest.approx((precision, recall, f1))
    assert [made.true_fail, made.false_pass, made.false_fail, made.true_pass] == confusion_matrix(human, judge).ravel().tolist()


def test_brier_score_is_that_of_scikit_learn():
    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(6)
    stated, passed = rng.random(90), rng.integers(0, 2, 90)
    assert reliability.brier(stated, passed).value == pytest.approx(brier_score_loss(passed, stated))


def test_the_calibrator_is_the_isotonic_regression_of_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(7)
    judge = rng.integers(1, 6, 200).astype(float)
    human = np.clip(judge + rng.normal(0, 1, 200), 1, 5)
    found = recalibrate(judge, human, human >= 4, (1, 5), range(200), rng=rng).calibrator
    new = np.array([1, 1.4, 2.5, 3, 4.75, 5])
    assert found.predict(new) == pytest.approx(IsotonicRegression(out_of_bounds="clip").fit(judge, human).predict(new))


@pytest.mark.parametrize("slope", [2.0, 0.3, 0.0, -1.0])
def test_the_calibrator_pools_scores_of_any_slope_as_scikit_learn_does(slope):
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(17)
    judge = rng.uniform(1, 5, 300).round(2)
    human = np.clip(3 + slope * (judge - 3) + rng.normal(0, 1, 300), 1, 5)
    found = recalibrate(judge, human, human >= 4, (1, 5), range(300), rng=rng).calibrator
    new = np.linspace(1, 5, 81)
    assert found.predict(new) == pytest.approx(IsotonicRegression(out_of_bounds="clip").fit(judge, human).predict(new))


@pytest.mark.parametrize("freedom", [1, 2.5, 30, 59.9, 60, 61.5, 200, 54_000])
@pytest.mark.parametrize("p", [0.5, 0.8, 0.975, 0.999])
def test_the_quantile_of_student_is_that_of_scipy(freedom, p):
    from scipy.special import stdtrit

    assert student_quantile(freedom, p) == pytest.approx(stdtrit(freedom, p), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 29, 30, 199, 9_999, 1e6])
@pytest.mark.parametrize("t", [-30.0, -2.0, -1e-9, 0.0, 0.3, 5.0])
def test_the_probability_of_student_is_that_of_scipy(freedom, t):
    from scipy.special import stdtr

    assert student_probability(t, freedom) == pytest.approx(stdtr(freedom, t), rel=1e-8)


def test_benjamini_yekutieli_is_that_of_scipy():
    from scipy.stats import false_discovery_control

    rng = np.random.default_rng(8)
    for _ in range(30):
        p = rng.random(8) ** 4
        assert benjamini_yekutieli(p) == (false_discovery_control(p, method="by") <= 0.05).tolist()


def test_slopes_and_their_errors_are_those_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(9)
    human, length, prompt = rng.normal(3, 1, 900), rng.integers(50, 5000, 900), rng.integers(0, 300, 900)
    judge = human + 0.3 * np.log(length) + rng.normal(size=300)[prompt] + rng.normal(size=900)
    logs = np.log1p(length)
    design = sm.add_constant(np.stack([(logs - logs.mean()) / logs.std(ddof=1), human], axis=1))
    theirs = sm.OLS(judge - human, design).fit(cov_type="cluster", cov_kwds={"groups": prompt}, use_t=True)
    ours = probes.length_bias(judge, human, length, prompt)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.params[1], *theirs.conf_int()[1]), abs=1e-9)


def test_with_few_outputs_the_points_of_a_flag_have_the_error_of_welch_and_the_degrees_that_its_few_outputs_leave():
    from scipy.stats import t as student
    from scipy.stats import ttest_ind

    flagged, judge = np.repeat([1, 0], [4, 16]), np.r_[3.5, 2.5, 3.7, 2.3, np.resize([2.0, 3.0, 2.2, 2.8], 16)]
    ours = probes.injection_bias(judge, np.full(20, 3.0), flagged, range(20))
    theirs = ttest_ind(judge[:4], judge[4:], equal_var=False)
    degrees = (1 / 4 + 1 / 16) ** 2 / (1 / 4**2 / 3 + 1 / 16**2 / 15)  # Welch's, were both kinds equally spread
    error = (judge[:4].var(ddof=1) / 4 + judge[4:].var(ddof=1) / 16) ** 0.5
    assert ours.value == pytest.approx(theirs.statistic * error)
    assert ours.high - ours.value == pytest.approx(error * student.ppf(0.975, degrees))


def test_severities_of_reviewers_are_those_of_a_regression_on_outputs_and_reviewers():
    import statsmodels.api as sm

    table = make_ratings(10, n=40, raters=3)
    table[:, 1] -= 0.7
    table[(~np.isnan(table)).sum(axis=1) < 2] = np.nan
    item, rater = np.nonzero(~np.isnan(table))
    dummies = np.concatenate([(item[:, None] == np.unique(item)), (rater[:, None] == [1, 2])], axis=1).astype(float)
    effects = np.append(0, sm.OLS(table[item, rater], dummies).fit().params[-2:])
    found = probes.reviewer_severity(table, ["a", "b", "c"], range(40))
    assert [e.value for e in found.values()] == pytest.approx(effects - effects.mean())


def test_severities_of_a_full_panel_are_the_mean_differences_with_their_spread():
    rng = np.random.default_rng(11)
    table = rng.integers(1, 6, size=(1600, 1)) + rng.integers(-1, 2, size=(1600, 3)).astype(float)
    found = probes.reviewer_severity(table, ["a", "b", "c"], range(1600))
    apart = table - table.mean(axis=1, keepdims=True)
    for estimate, own in zip(found.values(), apart.T, strict=True):
        assert estimate.value == pytest.approx(own.mean())
        assert estimate.high - estimate.value == pytest.approx(1.96 * own.std() / 40, rel=0.01)


def test_the_exact_interval_is_that_of_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for passes, n in ((0, 7), (3, 11), (11, 11)):
        rate = clopper_pearson(passes, n)
        assert (rate.low, rate.high) == pytest.approx(proportion_confint(passes, n, method="beta"), abs=1e-9)


def test_pass_at_k_is_the_binomial_formula():
    n, passes, k = [10, 12, 30], [0, 3, 29], 5
    chances = [1 - math.comb(a - c, k) / math.comb(a, k) for a, c in zip(n, passes, strict=True)]
    assert pass_at_k(n, passes, k).value == pytest.approx(np.mean(chances))


def test_quantiles_of_student_are_scipys_without_the_time_to_import_it():
    code = "import sys\nfrom graders.calibration.student import student_quantile as q\nprint(q(3.5, 0.975), 'scipy' in sys.modules)"
    found, imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    special = pytest.importorskip("scipy.special")
    assert float(found) == pytest.approx(float(special.stdtrit(3.5, 0.975)), rel=1e-9) and imported == "False"
