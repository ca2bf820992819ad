"""Which outputs to label next, and how many."""

import numpy as np
import pytest

from graders.calibration.planning import plan_labels
from graders.calibration.sampling import (
    active_sample,
    disagreement_sample,
    draw,
    predicted_error,
    random_sample,
    score_strata,
    stratified_sample,
)
from graders.calibration.weighted import weighted_rate

STRATA = np.repeat([0, 1, 2], [60, 30, 10])
ERROR = np.repeat([0.1, 0.5, 2.0], [60, 30, 10])


def samples(policy, size=20, times=3000):
    rng = np.random.default_rng(0)
    return [draw(policy, np.zeros(100), ERROR, STRATA, size, rng=rng) for _ in range(times)]


@pytest.mark.parametrize("policy", ["random", "stratified", "active"])
def test_outputs_are_drawn_as_often_as_their_probability_says(policy):
    drawn = samples(policy)
    often = np.bincount(np.concatenate([s.indices for s in drawn]), minlength=100) / len(drawn)
    assert drawn[0].probabilities.sum() == pytest.approx(20)
    assert np.abs(often - drawn[0].probabilities).max() < 0.04


@pytest.mark.parametrize("policy", ["random", "stratified", "active"])
def test_the_first_half_of_a_sample_is_a_sample_of_the_same_kind(policy):
    drawn = samples(policy)
    often = np.bincount(np.concatenate([s.indices[:10] for s in drawn]), minlength=100) / len(drawn)
    assert np.abs(often - drawn[0].probabilities / 2).max() < 0.04


@pytest.mark.parametrize("policy", ["random", "stratified", "active", "disagreement"])
@pytest.mark.parametrize("size", [1, 7, 99, 100, 500])
def test_no_output_is_drawn_twice_and_all_that_are_wanted_are_there(policy, size):
    drawn = draw(policy, np.zeros(100), ERROR, STRATA, size, rng=np.random.default_rng(1))
    assert len(set(drawn.indices.tolist())) == len(drawn.indices) == min(size, 100)


def test_the_same_seed_draws_the_same():
    first, again = (draw("active", np.zeros(100), ERROR, STRATA, 20, rng=np.random.default_rng(7)) for _ in range(2))
    assert first.indices.tolist() == again.indices.tolist()


def test_strata_where_people_and_judge_differ_more_get_more_labels():
    # half of 20 by outputs: 6, 3, 1; half by outputs x spread 6, 15, 20 of 41: 1.5, 3.7, 4.9
    drawn = stratified_sample(STRATA.tolist(), 20, ERROR, rng=np.random.default_rng(0))
    assert np.bincount(STRATA[drawn.indices]).tolist() == [7, 7, 6]


def test_without_a_spread_strata_get_their_share():
    drawn = stratified_sample(STRATA.tolist(), 20, rng=np.random.default_rng(0))
    assert np.bincount(STRATA[drawn.indices]).tolist() == [12, 6, 2]


def test_active_draws_where_the_judge_is_expected_to_be_off_and_never_less_than_half_evenly():
    drawn = active_sample(ERROR, 20, rng=np.random.default_rng(0))
    assert drawn.probabilities.min() >= 0.1 and drawn.probabilities.max() > 0.5


def test_disagreement_takes_the_worst_first_and_is_not_for_estimates():
    drawn = disagreement_sample([1, 9, None, 5], 3)
    assert drawn.indices.tolist() == [1, 3, 0]
    assert not drawn.is_for_estimates and np.isnan(drawn.probabilities).all()


def test_strata_are_quantiles_of_the_judge_within_each_task():
    found = score_strata([1, 2, 3, 4, 9, 9, 9, 9, None], list("aaaabbbbb"), n_quantiles=2)
    assert found.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 3]


def test_predicted_error_is_the_spread_of_people_in_a_stratum_drawn_to_that_of_all():
    strata, human = [0] * 6 + [1] * 6, [3] * 5 + [None] + [1, 5, 1, 5, 3, None]
    error = predicted_error(np.full(12, 3.0), human, strata, (1, 5))
    # squares 0 and 16, freedom 4 and 4, overall 16/8 = 2: roots of (0 + 8) / 8 and (16 + 8) / 8
    assert error[[0, 6]] == pytest.approx([1.0, np.sqrt(3)])


def test_without_labels_all_outputs_are_expected_to_be_off_alike():
    assert np.ptp(predicted_error(np.arange(4.0), [None] * 4, [0, 0, 1, 1], (1, 5))) == 0


def test_a_plan_tells_how_many_labels_halve_the_interval():
    rng = np.random.default_rng(2)
    truth = np.clip(np.round(3 + rng.standard_normal(3000)), 1, 5)
    human = np.where(np.arange(3000) < 50, truth, np.nan)
    plan = plan_labels(np.full(3000, 3.0), human, (1, 5), rng=rng, n_studies=10)
    assert 110 <= plan.labels_more <= 190  # four times as many in all, with a useless judge
    assert [w for _, w in plan.curve] == sorted((w for _, w in plan.curve), reverse=True)


def test_a_plan_that_no_number_of_labels_reaches_says_so():
    human = [1.0, 0.0] * 10 + [None] * 10
    plan = plan_labels([None] * 30, human, (0, 1), target=0.001, rng=np.random.default_rng(0), n_studies=3)
    assert plan.labels_more is None and plan.why_missing.startswith("labelling all 30 outputs would leave 0.")


def test_a_plan_counts_outputs_of_a_prompt_that_are_alike():
    """Of 40 prompts of 25 outputs more labels bring little: what is foretold is what they then give."""
    rng, prompt, gaps = np.random.default_rng(3), np.repeat(np.arange(40), 25), []
    for _ in range(6):
        quality = np.sqrt(0.5) * rng.standard_normal(40)[prompt] + np.sqrt(0.5) * rng.standard_normal(1000)
        truth, judge = (quality > 0).astype(float), (quality + rng.standard_normal(1000) > 0).astype(float)
        order = rng.permutation(1000)

        def half_width(labels: int, order=order, truth=truth, judge=judge) -> float:
            human = np.where(np.isin(np.arange(1000), order[:labels]), truth, np.nan)
            found = weighted_rate(judge, human, clusters=prompt)
            return (found.high - found.low) / 2

        human = np.where(np.isin(np.arange(1000), order[:150]), truth, np.nan)
        plan = plan_labels(judge, human, (0, 1), target=0.001, clusters=prompt, rng=rng, n_studies=4)
        assert plan.half_width == half_width(150)
        gaps.append([foretold / half_width(150 + more) for more, foretold in plan.curve[1:]])
    assert np.abs(np.mean(gaps, axis=0) - 1).max() < 0.15


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda rng: random_sample(5, 0, rng=rng), "size is 0, must be at least 1"),
        (lambda rng: active_sample([1, -1], 1, rng=rng), "error has -1, must be 0 or more"),
        (lambda rng: stratified_sample([0, 1], 1, [1], rng=rng), "spread has 1 entries, must have one an output: 2"),
        (lambda rng: score_strata([1], n_quantiles=0), "n_quantiles is 0"),
        (lambda rng: plan_labels([1], [1], (0, 1), policy="disagreement", rng=rng), "never used for estimates"),
        (lambda rng: draw("best", np.ones(1), np.ones(1), np.ones(1), 1, rng=rng), "policy is 'best', allowed: random, stratified"),
    ],
)
def test_unfit_input_is_refused_with_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
