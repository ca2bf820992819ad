"""Intervals: by prompts, shared by figures, the same as drawing outputs by hand, and right as often as they say."""

import numpy as np
import pytest

from graders.calibration import agreement, alpha, by_chance, decision, errors, icc, rank, reliability
from graders.calibration.resample import HINGES, TOO_ALIKE, Resamples


def make_study(rng: np.random.Generator, prompts: int = 40, each: int = 3):
    """judge (n,), human (n, 3) on 1 to 5, prompt (n,): outputs of one prompt are alike in quality and in the judge's error."""
    prompt = np.repeat(np.arange(prompts), each)
    quality = 3 + rng.normal(0, 0.7, prompts)[prompt] + rng.normal(0, 0.7, prompts * each)
    human = np.clip(np.round(quality[:, None] + rng.normal(0, 0.7, (len(prompt), 3))), 1, 5)
    judge = np.clip(np.round(quality + 0.5 + rng.normal(0, 0.5, prompts)[prompt] + rng.normal(0, 0.5, len(prompt))), 1, 5)
    return judge, human, prompt


def by_hand(figure, draws: Resamples) -> np.ndarray:
    """The figure of each resample, by writing its outputs down."""
    rows = [np.repeat(np.arange(len(draws.clusters)), counts[draws.clusters].astype(int)) for counts in draws.counts]
    return np.array([figure(r) for r in rows])


FIGURES = {
    "ordinal alpha": lambda j, h, d: alpha.krippendorff_alpha(h, "ordinal", d),
    "interval alpha": lambda j, h, d: alpha.krippendorff_alpha(h, "interval", d),
    "nominal alpha": lambda j, h, d: alpha.krippendorff_alpha(h, "nominal", d),
    "alpha of the judge": lambda j, h, d: alpha.judge_alpha(j, h, "ordinal", d),
    "ICC(1)": lambda j, h, d: icc.icc1(h, d),
    "ICC(2,k)": lambda j, h, d: icc.icc2k(h, d),
    "AC2": lambda j, h, d: agreement.gwet_ac2(j, h, (1, 2, 3, 4, 5), d),
    "Pearson": rank.pearson,
    "Spearman": rank.spearman,
    "Kendall": rank.kendall_b,
    "MAE": errors.mae,
    "limit": lambda j, h, d: errors.limits_of_agreement(j, h, d).high,
    "false pass rate": lambda j, h, d: decision.decide(j >= 4, decision.majority(h >= 4), d).false_pass_rate,
}


@pytest.mark.parametrize("name", FIGURES)
def test_over_two_hundred_prompts_the_interval_is_that_of_resampled_prompts(name, monkeypatch):
    judge, human, prompt = make_study(np.random.default_rng(1), prompts=201, each=1)
    draws = Resamples(prompt, rng=np.random.default_rng(2), n_boot=60)
    monkeypatch.setattr("graders.calibration.resample._expanded_tail", lambda level, prompts: (1 - level) / 2)
    found = FIGURES[name](judge, human, draws)
    drawn = by_hand(lambda rows: FIGURES[name](judge[rows], human[rows], None).value, draws)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"limit", "false pass rate"}))
def test_with_few_prompts_the_interval_rests_on_the_figure_without_each(name, monkeypatch):
    judge, human, prompt = make_study(np.random.default_rng(1))
    seen = []
    monkeypatch.setattr("graders.calibration.resample.ends_of", lambda value, without, *_: seen.append(without) or (value, value + 1))
    FIGURES[name](judge, human, Resamples(prompt, rng=np.random.default_rng(2)))
    without = [FIGURES[name](judge[prompt != p], human[prompt != p], None).value for p in range(40)]
    assert any(len(values) == 40 and np.allclose(values, without) for values in seen)


def test_of_independent_outputs_the_interval_of_a_mean_is_students():
    off = np.random.default_rng(3).integers(0, 3, 12)
    found = errors.bias(off, np.zeros(12), Resamples(range(12), rng=np.random.default_rng(4)))
    half = 2.200985 * off.std(ddof=1) / 12**0.5  # Student's quantile for 11; fewer where a few outputs count for most
    assert found.high - found.value == pytest.approx(half, rel=0.02)


def test_a_figure_that_hinges_on_one_output_has_no_interval_and_says_so():
    found = rank.pearson([1, 1, 1, 5], [1, 2, 1, 4], Resamples(range(4), rng=np.random.default_rng(0)))
    assert (round(found.value or 0, 3), found.low) == (0.943, None)
    assert found.why_missing == "no interval: without one of the prompts it is not defined, so too few outputs differ"


@pytest.mark.parametrize("n", [20, 50, 80, 150])
def test_rounding_does_not_make_an_interval_where_without_one_output_all_scores_are_alike(n):
    unlike, people = np.eye(n)[n // 3], np.arange(n) % 7 / 3
    draws = Resamples(range(n), rng=np.random.default_rng(0))
    for found in (
        rank.pearson(5 - 4 * unlike, people, draws),
        icc.icc1(np.outer(5 - unlike, [1, 1, 1]), draws),
        icc.icc2k(np.outer(50_000 - 10_000 * unlike / 3, [1, 1, 1]), draws),
    ):
        assert (found.low, found.why_missing) == (None, HINGES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("differ", "shown"), [(0, False), (2, False), (3, True)])
def test_alpha_of_a_judge_that_gives_nearly_all_outputs_the_same_has_no_interval(differ, shown, weighted):
    people = np.array([[5, 4], [5, 5], [3, 4], [5, 5], [4, 5]] * 8, dtype=float)
    judge, draws = np.where(np.arange(40) < differ, 3.0, 5.0), Resamples(range(40), rng=np.random.default_rng(0))
    if weighted:
        found = by_chance.alpha_by_chance(people, "ordinal", np.ones(40), draws, (1, 2, 3, 4, 5), judge=judge)
    else:
        found = alpha.judge_alpha(judge, people, "ordinal", draws, (1, 2, 3, 4, 5))
    assert found.value is not None
    assert (found.low is not None, found.why_missing == TOO_ALIKE) == (shown, not shown)


def test_an_interval_allows_for_outputs_too_rare_to_have_been_seen():
    human = np.array([[5, 5], [5, 5], [5, 4], [4, 5], [4, 4], [5, 5], [5, 5], [4, 5]])
    draws = Resamples(range(8), rng=np.random.default_rng(0))
    seen, allowed = (icc.icc1(human, draws, labels) for labels in ((), (1, 2, 3, 4, 5)))
    assert (seen.value, seen.low) == (allowed.value, allowed.low)
    assert seen.high < allowed.high < 1


@pytest.mark.parametrize("name", ["interval alpha", "ICC(1)", "Spearman", "Kendall", "MAE", "alpha of the judge"])
def test_the_interval_holds_the_true_figure_as_often_as_it_says(name):
    truth = FIGURES[name](*make_study(np.random.default_rng(0), prompts=20_000)[:2], None).value
    rng, held = np.random.default_rng(3), []
    for _ in range(200):
        judge, human, prompt = make_study(rng)
        found = FIGURES[name](judge, human, Resamples(prompt, rng=rng, n_boot=300))
        held.append(found.low <= truth <= found.high)
    assert 0.90 <= np.mean(held) <= 0.985


def test_outputs_of_one_prompt_count_for_less():
    judge, human, prompt = make_study(np.random.default_rng(4), prompts=30, each=10)
    together = errors.bias(judge, human, Resamples(prompt, rng=np.random.default_rng(5)))
    apart = errors.bias(judge, human, Resamples(range(300), rng=np.random.default_rng(5)))
    assert together.value == apart.value
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_over_five_hundred_prompts_are_drawn_in_groups():
    judge, human, prompt = make_study(np.random.default_rng(6), prompts=6000, each=1)
    found = errors.mae(judge, human, Resamples(prompt, rng=np.random.default_rng(7)))
    half = 1.96 * np.abs(judge - human.mean(axis=1)).std() / 6000**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert "500 groups of prompts" in found.method


@pytest.mark.parametrize("spread", [rank.spearman, rank.kendall_b])
def test_scores_with_many_decimals_have_an_interval_as_wide_as_in_few_steps(spread):
    rng = np.random.default_rng(8)
    human = rng.normal(size=400)
    judge = human + rng.normal(size=400)
    draws = Resamples(range(400), rng=rng)
    fine, coarse = spread(judge, human, draws), spread(np.round(judge * 4), np.round(human * 4), draws)
    assert fine.high - fine.low == pytest.approx(coarse.high - coarse.low, rel=0.1)


def test_unbiased_judges_have_a_calibration_error_near_zero():
    rng = np.random.default_rng(9)
    stated = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], 300)
    found = [reliability.ece(stated, rng.random(300) < stated).value for _ in range(50)]
    assert np.mean(found) < 0.025


def test_one_prompt_gives_a_figure_without_an_interval():
    found = errors.mae([1, 2, 3], [1, 1, 1], Resamples("aaa", rng=np.random.default_rng(0)))
    assert (found.value, found.low, found.why_missing) == (1.0, None, "no interval: all outputs belong to one prompt")


def test_a_rate_of_nought_is_as_unsure_as_its_prompts_are_few():
    draws = Resamples(["a", "a", "b", "b", "c", "c", "d", "d"], rng=np.random.default_rng(0), n_boot=200)
    made = decision.decide([0] * 8, [0] * 6 + [1] * 2, draws)
    # Wilson for 0 of 3 prompts: 1.96^2 / (3 + 1.96^2) = 0.5615
    assert (made.false_pass_rate.low, round(made.false_pass_rate.high or 0, 4)) == (0.0, 0.5615)
    assert made.false_pass_rate.method == "Wilson on 3 prompts"


def test_scores_that_run_against_each_other_have_an_ac2_below_minus_one_and_an_interval_around_it():
    judge = np.array([1, 3] * 9 + [1, 2])
    found = agreement.gwet_ac2(judge, 4 - judge, (1, 2, 3), Resamples(range(20), rng=np.random.default_rng(0)))
    assert found.value < -1 and found.low < found.value < found.high < -0.7
