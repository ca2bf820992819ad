"""What can't be known is a sentence that says why: never NaN, never a silent 0, never a crash."""

import inspect
import pkgutil
import sys
from importlib import import_module

import numpy as np
import pytest

import graders.calibration
from graders.calibration import agreement, alpha, by_chance, decision, errors, icc, means, noise, passes, probes, rank, rates, reliability
from graders.calibration.alt_test import alternative_annotator_test
from graders.calibration.arrays import mean_human
from graders.calibration.comparison import compare_categories, compare_judges, drift
from graders.calibration.drawn import Population
from graders.calibration.inference import corrected_rate, human_rate
from graders.calibration.planning import plan_labels
from graders.calibration.ranking import bradley_terry
from graders.calibration.recalibration import pass_chance, recalibrate
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from graders.calibration.sampling import combined_weights
from graders.calibration.weighted import weighted_mean, weighted_rate

NAN = np.nan
JUDGES = {
    "a judge that agrees with people everywhere": ([1, 2, 3, 4, 5, 4], [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [4, 4]]),
    "a judge one point too generous everywhere": ([2, 3, 4, 5, 3, 4], [[1, 1], [2, 2], [3, 3], [4, 4], [2, 2], [3, 3]]),
    "no output": ([], np.empty((0, 2))),
    "no overlap": ([1, NAN], [[NAN, NAN], [2, 3]]),
    "one output": ([3], [[2, 4]]),
    "a judge that always says the same": ([3, 3, 3, 3], [[1, 2], [2, 3], [4, 5], [3, 3]]),
    "people who always say the same": ([1, 2, 3, 4], [[4, 4]] * 4),
    "everyone says the same": ([4, 4, 4], [[4, 4]] * 3),
    "one rater": ([1, 2, 3], [[1], [3], [2]]),
    "nothing but missing": ([NAN] * 3, [[NAN, NAN]] * 3),
}


def figures(judge, human, prompts=None, length=None) -> dict[str, Estimate]:
    """Every figure; by default each output has its own prompt and all have one length (and are of one family)."""
    judge, human = np.array(judge, dtype=float), np.array(human, dtype=float)
    rng, prompts = np.random.default_rng(0), list(range(len(judge))) if prompts is None else prompts
    length = np.full(len(judge), 9.0) if length is None else length
    own = np.where(np.isnan(length), NAN, length > 1)
    draws, labels = Resamples(prompts, rng=rng, n_boot=50), (1, 2, 3, 4, 5)
    passed, truth = np.where(np.isnan(judge), NAN, judge >= 4), decision.majority(np.where(np.isnan(human), NAN, human >= 4))
    made, limits = decision.decide(passed, truth, draws), errors.limits_of_agreement(judge, human, draws)
    test = alternative_annotator_test(judge, human, "neg_rmse", 0.2, resamples=draws)
    calibrated = recalibrate(judge, human, truth, (1, 5), prompts, rng=rng, resamples=draws)
    found = {f"alpha {m}": estimate for m, estimate in alpha.krippendorff_alphas(human, alpha.METRICS, draws).items()}
    found |= {f.__name__: f(judge, human, draws) for f in (rank.pearson, rank.spearman, rank.kendall_b, errors.mae, errors.bias)}
    found |= {f.__name__: f(human, draws) for f in (icc.icc1, icc.icc2k)}
    found |= {f.__name__: f((judge - 1) / 4, truth, draws) for f in (reliability.ece, reliability.brier)}
    found |= {name: getattr(made, name) for name in ("precision", "recall", "f1", "false_pass_rate", "agreement")}
    found |= {name: getattr(calibrated, name) for name in ("mae_before", "mae_after", "log_loss_before", "log_loss_after")}
    found |= {name: getattr(calibrated, name) for name in ("bias_before", "bias_after")}
    found |= {"judge alpha": alpha.judge_alpha(judge, human, "ordinal", draws), "ac2": agreement.gwet_ac2(judge, human, labels, draws)}
    found |= {"kappa": agreement.weighted_kappa(judge, human, labels, rng=rng, resamples=draws)}
    found |= {"low": limits.low, "high": limits.high, "advantage": test.advantage_probability}
    found |= {"within": rank.within(rank.spearman, judge, human, ["a"] * len(judge), draws)}
    found |= {"length": probes.length_bias(judge, human, length, prompts)}
    found |= {"own": probes.self_preference(judge, human, own, prompts)}
    found |= {"position": probes.position_bias(judge, human, prompts)}
    found |= {f"severity {k}": e for k, e in probes.reviewer_severity(human, list("abc")[: human.shape[1]], prompts).items()}
    found |= {"formatting": probes.formatting_bias(judge, human, length, prompts)}
    found |= {"injection": probes.injection_bias(judge, human, own, prompts)}
    alike = np.zeros(len(judge), dtype=np.int64)
    found |= {f"bias by {k}": e for k, e in enumerate(errors.bias_by(judge, human, alike, 1, draws))}
    second = rank.second_reviewer(judge, human, alike, draws)
    found |= {"second judge": second.judge, "second person": second.people, "judge less person": second.difference}
    found |= {"mean": means.mean_score(human, draws, (1, 5))}
    return found | samples(judge, human, passed, truth, draws) | {"reviews": noise.reviews_needed(found["icc1"])}


def samples(judge, human, passed, truth, draws) -> dict[str, Estimate]:
    """What is made of labels that were drawn, and of two judges."""
    people, n = mean_human(human), len(judge)
    found = {"rate": weighted_rate(passed, truth, np.ones(n)), "mean": weighted_mean(judge, human, (1, 5), strata=np.zeros(n, dtype=int))}
    found |= {"people's rate": weighted_rate([NAN] * n, truth, clusters=[0] * n), "wilson": rates.wilson(0, n)}
    found |= {"clopper": passes.clopper_pearson(0, n), "pass@1": passes.pass_at_k([1] * n, [0] * n, 1)}
    found |= {"cohen": agreement.cohen_kappa(passed, truth, rng=np.random.default_rng(0), n_boot=20)}
    both = ~np.isnan(passed) & ~np.isnan(truth)
    found |= {"corrected": corrected_rate(passed[~np.isnan(passed)], passed[both], truth[both])}
    found |= {"people alone": human_rate(truth, clusters=draws.clusters)}
    weights = np.geomspace(1, 1e4, n) if n else np.empty(0)
    for metric in alpha.METRICS:
        found |= {f"alpha by chance, {metric}": by_chance.alpha_by_chance(human, metric, weights, draws, (1, 5))}
        found |= {f"judge's alpha by chance, {metric}": by_chance.alpha_by_chance(human, metric, weights, draws, (1, 5), judge=judge)}
    found |= {"kappa by chance": by_chance.kappa_by_chance(judge, human, (1, 2, 3, 4, 5), weights, draws)}
    found |= {"error by chance": by_chance.mean_by_chance(abs(judge - people), weights, draws, "size", strata=[i % 3 for i in range(n)])}
    found |= {"ac2 by chance": by_chance.ac2_by_chance(judge, human, (1, 2, 3, 4, 5), weights, draws)}
    for name in ("pearson", "spearman"):
        found |= {f"{name} by chance": by_chance.correlation_by_chance(name, judge, human, weights, draws)}
        found |= {f"{name} within": by_chance.correlation_by_chance(name, judge, human, weights, draws, groups=list("ab" * n)[:n])}
        of_kind = {"population": Population(np.arange(2 * n) % 3, np.tile(draws.clusters, 2), np.arange(n))}
        found |= {f"{name} of the kind": by_chance.correlation_by_chance(name, judge, human, weights, draws, **of_kind)}
    found |= {"kappa of the kind": by_chance.kappa_by_chance(judge, human, (1, 2, 3, 4, 5), weights, draws, **of_kind)}
    found |= {"alpha of the kind": by_chance.alpha_by_chance(human, "ordinal", weights, draws, (1, 5), **of_kind)}
    found |= {"bias of the kind": by_chance.mean_by_chance(judge - people, weights, draws, "points", **of_kind)}
    compared = compare_judges(judge, judge, human, (1, 2, 3, 4, 5), resamples=draws)
    found |= {f"difference of {d.name}": d.difference for d in compared.differences}
    compared = compare_judges(judge, people, human, (1, 2, 3, 4, 5), resamples=draws, groups=[i % 3 for i in range(n)])
    found |= {f"difference of {d.name} within": d.difference for d in compared.differences}
    found |= {f"difference of {d.name}": d.difference for d in compare_categories(judge, people, human, resamples=draws).differences}
    moved = drift(judge, judge, draws, tolerance=0.1)
    found |= {"shift": moved.shift, "repeat": moved.repeat}
    ratings = bradley_terry(["a"] * n, ["b"] * n, np.where(np.isnan(judge), NAN, 0.5), draws)
    found |= {f"strength of {r.name}": r.strength for r in ratings} | {f"{r.name} beats": r.beats_average for r in ratings}
    plan = plan_labels(judge, people, (1, 5), rng=np.random.default_rng(0), n_studies=2)
    assert plan.labels_more is not None or plan.why_missing
    assert len(judge) >= 20 or pass_chance(judge, truth) is None
    bins = reliability.reliability_bins((judge - 1) / 4, truth)
    return found | {f"bin {b.low}": b.passed for b in bins}


@pytest.mark.parametrize("case", JUDGES)
@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")  # what another test left behind
def test_a_figure_that_is_not_defined_says_why(case):
    for name, found in figures(*JUDGES[case]).items():
        assert_form(name, found)
        assert found.low is None or found.low < found.high, f"{name} is given as sure, {found.low:g} to {found.high:g}"


def assert_form(name: str, found: Estimate) -> None:
    """A reason names what is missing first, so that no page has to: the figure itself, or its interval."""
    assert (found.value is None or found.low is None) == bool(found.why_missing), name
    no_figure, no_interval = ("not defined, because ", "not shown, because ", "not fitted, because "), ("no interval: ", "no interval was")
    if found.why_missing:
        assert found.why_missing.startswith(no_figure if found.value is None else no_interval), f"{name}: {found.why_missing}"


def strange_study(rng: np.random.Generator):
    """Scores of few outputs with few values, often missing, all alike, of one side only, or of people who repeat the judge."""
    n, raters = int(rng.choice([0, 1, 2, 3, 5, 12, 30])), int(rng.choice([1, 2, 3]))
    values = rng.choice([1, 2, 3, 4, 5], size=int(rng.choice([1, 2, 5])), replace=False)
    judge, human = rng.choice(values, size=n).astype(float), rng.choice(values, size=(n, raters)).astype(float)
    judge[rng.random(n) < rng.choice([0, 0.3, 0.9])] = NAN
    human[rng.random((n, raters)) < rng.choice([0, 0.3, 0.9])] = NAN
    strange = int(rng.integers(5))
    if strange == 0:
        human[~np.isnan(judge)] = NAN
    elif strange == 1:
        human = np.repeat(judge[:, None], raters, axis=1)
    elif strange == 2:
        human[:-1] = NAN
    prompts = np.arange(n) % int(rng.choice([1, 2, 3])) if rng.random() < 0.5 else np.arange(n)
    return judge, human, prompts


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_strange_studies_give_figures_or_reasons_and_are_never_sure(seed):
    rng = np.random.default_rng(seed)
    judge, human, prompts = strange_study(rng)
    length = rng.choice([0.0, 9.0, NAN], size=len(judge))
    for name, found in figures(judge, human, prompts, length).items():
        assert_form(name, found)
        assert found.low is None or found.high - found.low > 1e-12, f"{name} is given as sure, at {found.value:g}"


def test_every_public_function_that_makes_a_figure_is_in_the_table():
    """A new one that is forgotten here would be found by its name."""
    # No figures: their refusals have tests of their own.
    helpers = {"arrays", "drawn", "jackknife", "resample", "result", "student", "texts", "sampling"}
    other = {
        "spearman_brown",
        "benjamini_yekutieli",
        "resampled_kappa",
        "resampled_within",
        "wilson_bounds",
        "estimate_from",
        "with_some_width",
        "share_by_prompt",
        "all_agree",
        "kappas_of_tables",
        "ac2_of_tables",
        "had_both_been_alike",
        "is_habit",
        "unless_wider",
        "quadratic_weights",
        "labels_of_both",
        "kappa_without_each",
        "why_no_kappa",
        "spearman_of_tables",
        "correlation_of_sums",
        "score_codes",
        "why_no_correlation",
        "alpha_of_tables",
        "had_all_been_alike",
        "coded_scores",
        "units_of",
        "mean_scores",
        "merged_strata",
    }
    table = inspect.getsource(sys.modules[__name__])
    for module in pkgutil.iter_modules(graders.calibration.__path__):
        if module.name not in helpers:
            found = import_module(f"graders.calibration.{module.name}")
            for name, function in inspect.getmembers(found, inspect.isfunction):
                is_known = name.startswith("_") or name in other or name in table or function.__module__ != found.__name__
                assert is_known, f"{module.name}.{name} is not in the table"


ONE = Resamples(range(1), rng=np.random.default_rng(0), n_boot=50)


@pytest.mark.parametrize(
    "found, why",
    [
        (alpha.krippendorff_alpha([[1, NAN], [NAN, 2]], "ordinal"), "no output has scores of two people"),
        (agreement.weighted_kappa([3, 3], [1, 2], (1, 2, 3), rng=np.random.default_rng(0)), "the judge gives all 2 outputs the label 3"),
        (alpha.krippendorff_alpha([[1, 2]], "ordinal"), "one output alone shows no agreement beyond chance"),
        (alpha.judge_alpha([3], [[4, 5]], "ordinal"), "one output alone shows no agreement beyond chance"),
        (agreement.gwet_ac2([3], [4], (1, 2, 3, 4, 5)), "one output alone shows no agreement beyond chance"),
        (by_chance.alpha_by_chance([[4]], "ordinal", [1], ONE, judge=[3]), "one output alone shows no agreement beyond chance"),
        (by_chance.ac2_by_chance([3], [4], (1, 2, 3, 4, 5), [1], ONE), "one output alone shows no agreement beyond chance"),
        (probes.length_bias([1], [2], [9], [0]), "1 output has both scores, and it takes 4"),
        (icc.icc1([[1, 2]]), "1 output has scores of two people, and it takes 2"),
        (rank.spearman([1, 2], [3, 3]), "people give all 2 outputs the score 3"),
        (errors.limits_of_agreement([1], [2]).low, "one output has no spread"),
        (decision.decide([1, 0], [1, 1]).false_pass_rate, "people fail no output"),
        (passes.pass_at_k([2, 3], [1, 1], 5), "no prompt has 5 scored outputs"),
        (probes.self_preference([1, 2, 3, 4], [1, 2, 3, 3], [0] * 4, range(4)), "no output is of the judge's family"),
        (noise.reviews_needed(Estimate(0.0, -0.1, 0.2, 50)), "people agree no more than by chance: no number of reviews would be enough"),
    ],
)
def test_the_reason_is_in_words(found, why):
    assert found.why_missing == f"not defined, because {why}"


@pytest.mark.parametrize("n, more", [(0, 20), (12, 8), (19, 1)])
def test_too_few_labels_make_no_calibrator_and_it_says_how_many_more(n, more):
    scores = np.linspace(1, 5, n)
    made = recalibrate(scores, scores, scores >= 4, (1, 5), range(n), rng=np.random.default_rng(0))
    assert (made.calibrator, made.labels_missing) == (None, more)
    assert f"label {more} more" in made.why_missing


def test_several_criteria_of_one_output_are_one_label_of_a_calibrator():
    outputs = np.repeat(np.arange(11), 6)
    scores = np.linspace(1, 5, len(outputs))
    made = recalibrate(scores, scores, scores >= 4, (1, 5), outputs, rng=np.random.default_rng(0), outputs=outputs)
    assert made.why_missing == "not fitted, because 11 outputs have both scores, and it takes 20: label 9 more"
    assert (made.calibrator, made.labels_missing, made.log_loss_after.value) == (None, 9, None)


@pytest.mark.parametrize("n", [30, 80])
def test_labels_that_lie_where_the_map_puts_them_give_no_interval_of_a_prediction(n):
    judge = np.linspace(1, 5, n)
    made = recalibrate(judge, np.full(n, 5.0), np.ones(n), (1, 5), range(n), rng=np.random.default_rng(0))
    assert (made.calibrator.half_width, made.calibrator.spread, made.mae_after.value) == (None, 0, 0)
    assert np.isnan(made.calibrator.interval([3])).all()


@pytest.mark.parametrize("n, method", [(20, "linear"), (49, "linear"), (50, "isotonic")])
def test_a_calibrator_is_a_line_below_fifty_labels_and_isotonic_from_there(n, method):
    scores = np.linspace(1, 5, n)
    made = recalibrate(scores, scores, scores >= 4, (1, 5), range(n), rng=np.random.default_rng(0)).calibrator
    assert made.method == method
    assert (np.diff(made.predict(np.linspace(1, 5, 30))) >= 0).all()


def test_a_calibrator_takes_a_judges_bias_away_on_prompts_it_has_not_seen():
    rng = np.random.default_rng(1)
    human = np.clip(rng.normal(3, 1, 400), 1, 5)
    judge = np.clip(human + 0.8 + rng.normal(0, 0.4, 400), 1, 5)
    made = recalibrate(judge, human, human >= 4, (1, 5), np.arange(400) // 4, rng=rng)
    assert made.bias_before.value > 0.6 and abs(made.bias_after.value) < 0.05
    assert made.mae_after.value < 0.6 * made.mae_before.value


def test_errors_after_a_map_allow_for_low_scores_that_twenty_labels_may_not_show():
    """16 labels of 5 and four of 4: what people would give otherwise lies below, where the map is then too high."""
    human, judge = np.append(np.full(16, 5.0), np.full(4, 4.0)), np.tile([4.0, 5.0], 10)
    draws = Resamples(range(20), rng=np.random.default_rng(0))
    made = recalibrate(judge, human, human >= 4, (1, 5), range(20), rng=np.random.default_rng(0), resamples=draws)
    too_high, too_low = made.bias_after.high - made.bias_after.value, made.bias_after.value - made.bias_after.low
    assert too_high > 1.05 * too_low > 0
    assert made.mae_after.low >= 0


def test_about_95_in_100_human_scores_lie_in_the_interval_of_their_prediction():
    rng, held = np.random.default_rng(2), []
    for _ in range(40):
        human = np.clip(rng.normal(3, 1, 260), 1, 5)
        judge = np.clip(human + rng.normal(0, 0.7, 260), 1, 5)
        fitted = recalibrate(judge[:60], human[:60], human[:60] >= 4, (1, 5), range(60), rng=rng).calibrator
        low, high = fitted.interval(judge[60:])
        held.append(np.mean((low <= human[60:]) & (human[60:] <= high)))
    assert 0.93 <= np.mean(held) <= 0.98


def test_people_with_fewer_than_thirty_shared_outputs_are_left_out_of_the_annotator_test():
    rng = np.random.default_rng(3)
    human = rng.integers(1, 6, size=(40, 3)).astype(float)
    human[29:, 2] = NAN
    test = alternative_annotator_test(human[:, 0], human, "neg_rmse", 0.2, names=["ana", "ben", "eve"])
    assert [person.name for person in test.people] == ["ana", "ben"] and test.left_out == ("eve",)


def test_where_all_outputs_agree_resampling_gives_no_interval_and_it_says_why():
    draws = Resamples(range(6), rng=np.random.default_rng(0), n_boot=50)
    people = np.array([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [4, 4]], dtype=float)
    for found in (
        alpha.krippendorff_alpha(people, "ordinal", draws),
        errors.bias(people[:, 0] - 1, people, draws),
        icc.icc1(people, draws),
    ):
        assert (found.value in (1, -1), found.low) == (True, None)
        assert found.why_missing == "no interval: it is the same whichever of the 6 is left out, so they can't tell how sure it is"


def test_where_judge_and_people_differ_alike_everywhere_no_reason_says_that_they_agree():
    draws = Resamples(range(16), rng=np.random.default_rng(0), n_boot=50)
    judge, people = [0, 1] * 8, [1, 0] * 8
    kappa = agreement.weighted_kappa(judge, people, (0, 1), rng=np.random.default_rng(0), resamples=draws)
    assert kappa.value == -1
    for found in (kappa, errors.bias(np.ones(16), np.zeros(16), draws)):
        assert "agree" not in found.why_missing


DRAWS = Resamples(range(4), rng=np.random.default_rng(0), n_boot=50)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: rank.pearson([1, 2, np.inf, 4], [1, 2, 3, 4]), "judge has an infinite score; unscored is None or NaN"),
        (lambda: weighted_rate([1, 0], [1, 0], [1, np.inf]), "weights has an infinite score"),
        (lambda: weighted_mean([1, 2], [1, 2], (1, np.inf)), "scale is 1 to inf, must be a range such as 1 to 5"),
        (lambda: probes.length_bias([1, 2], [1, 2], [3, -5], "ab"), "length has -5, must be 0 or more"),
        (lambda: by_chance.kappa_by_chance([1, 2], [1, 2], (1, 2), [1], DRAWS), "weights has 1 entries, must have one an output: 2"),
        (lambda: by_chance.kappa_by_chance([1, 2], [1, 2], (1, 2), [1, 0], DRAWS), "weights has 0, must be above 0"),
        (
            lambda: by_chance.mean_by_chance([1, 2, 3, 4], [1] * 4, DRAWS, "points", population=Population([0, 0], [0, 1], np.array([0]))),
            "population.places has 1 entries, must have one a label: 4",
        ),
        (lambda: means.mean_score([[1, 2]], DRAWS, (1, 5)), "resamples are of 4 items, human has 1"),
        (lambda: combined_weights([(np.array([0]), np.array([0.0]))], 2), "probability 0, must be above 0"),
        (lambda: plan_labels([1], [1], (0, 1), target=NAN, rng=np.random.default_rng(0)), "target is nan, must be above 0"),
    ],
)
def test_what_is_no_score_weight_or_scale_is_refused_with_what_is_allowed(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_how_much_more_often_a_judge_prefers_the_first_answer_is_a_share_of_comparisons_at_most_all():
    found = probes.position_bias([1, -1], [-1, -0.5], range(2))
    assert (found.low, found.high) == (-1, 1)


def test_of_a_hundred_thousand_outputs_one_label_gives_no_interval_that_is_short():
    judge, human = np.ones(100_000), np.full(100_000, NAN)
    human[5] = 1
    rate, mean = weighted_rate(judge, human), weighted_mean(judge, human, (1, 5))
    assert rate.high - rate.low > 0.7 and mean.high - mean.low > 3


def test_a_judge_that_gives_every_anchor_the_same_score_again_is_steady_when_there_are_ten():
    for n, verdict in ((9, "unknown"), (10, "steady")):
        draws = Resamples(range(n), rng=np.random.default_rng(0), n_boot=50)
        assert drift([3] * n, [3] * n, draws, tolerance=0.1).verdict == verdict
    assert drift([3] * 10, [4] * 10, draws, tolerance=0.1).verdict == "drifted"
