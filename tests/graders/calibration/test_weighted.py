"""A pass rate or a mean from labels that were drawn with unequal probabilities."""

import numpy as np
import pytest

from graders.calibration.inference import corrected_rate
from graders.calibration.weighted import weighted_mean, weighted_rate

NAN = float("nan")


def make_study(rng, *, n_all=600, n=60, rate=0.3, recall=0.85, false_pass=0.15, boost=4.0):
    """Return (judge, human, weights, truth); what the judge passes is drawn `boost` times as often."""
    truth = (rng.random(n_all) < rate).astype(float)
    judge = np.where(truth == 1, rng.random(n_all) < recall, rng.random(n_all) < false_pass).astype(float)
    chance = np.where(judge == 1, boost, 1.0)
    chance *= n / chance.sum()
    drawn = rng.random(n_all) < chance
    return judge, np.where(drawn, truth, NAN), 1 / chance, truth


def width(rate):
    return rate.high - rate.low


def test_rate_by_hand():
    # Weighted people: (2*1 + 2*1 + 4*0) / 8 = .5; the judge has nothing on what people did not label
    rate = weighted_rate([1, 1, 0], [1, 1, 0], [2, 2, 4])
    assert (rate.value, rate.n, rate.method) == (0.5, 3, "weighted human labels only: every judged output has a human label")


def test_weights_alike_give_the_rate_of_a_random_sample():
    rng = np.random.default_rng(0)
    judge, human, _, _ = make_study(rng, n_all=2000, n=400, boost=1.0)
    labelled = ~np.isnan(human)
    even, plain = weighted_rate(judge, human), corrected_rate(judge, judge[labelled], human[labelled])
    assert (even.value, even.low, even.high) == pytest.approx((plain.value, plain.low, plain.high), abs=0.002)
    assert even == weighted_rate(judge, human, np.full(len(judge), 7.0))


def test_weights_undo_what_the_drawing_preferred():
    rng = np.random.default_rng(1)
    studies = [make_study(rng) for _ in range(300)]
    assert np.mean([np.nanmean(human) for _, human, _, _ in studies]) > 0.4  # of what was drawn
    assert np.mean([weighted_rate(j, h, w).value for j, h, w, _ in studies]) == pytest.approx(0.3, abs=0.012)


@pytest.mark.parametrize("recall, false_pass", [(0.5, 0.5), (0.95, 0.05), (0.95, 0.5)])
def test_interval_covers_and_is_never_over_5_percent_wider_than_without_the_judge(recall, false_pass):
    rng, covered = np.random.default_rng(2), []
    for _ in range(150):
        judge, human, weights, _ = make_study(rng, recall=recall, false_pass=false_pass)
        rate = weighted_rate(judge, human, weights)
        alone = weighted_rate([None] * len(judge), human, weights)
        covered.append(rate.low <= 0.3 <= rate.high)
        assert width(rate) <= 1.05 * width(alone) + 1e-12
    assert 0.92 <= np.mean(covered) <= 0.99


def test_a_good_judge_shortens_the_interval():
    rng = np.random.default_rng(3)
    studies = [make_study(rng, recall=0.95, false_pass=0.05, boost=1.0) for _ in range(50)]
    ratio = [width(weighted_rate(j, h, w)) / width(weighted_rate([None] * len(j), h, w)) for j, h, w, _ in studies]
    assert np.mean(ratio) < 0.75


def test_strata_weigh_by_their_size():
    # 90 outputs of which 1 in 10 passes, 10 that all pass: .9 * .1 + .1 * 1
    strata, human = np.repeat([0, 1], [90, 10]), np.full(100, NAN)
    human[:10], human[90:] = [1] + [0] * 9, 1.0
    assert weighted_rate([None] * 100, human, strata=strata).value == pytest.approx(0.19)


def test_a_stratum_with_one_label_is_taken_with_its_neighbour():
    strata, human = np.repeat([0, 1, 2], 10), np.full(30, NAN)
    human[[0, 1, 10, 20, 21]] = [1, 0, 1, 0, 0]
    rate = weighted_rate([None] * 30, human, strata=strata)
    assert rate.value == pytest.approx((10 * 1 / 2 + 20 * 1 / 3) / 30)


def test_outputs_of_one_prompt_count_for_less():
    rng = np.random.default_rng(4)
    prompts = np.repeat(np.arange(80), 5)
    truth = (rng.random(80) < 0.5)[prompts].astype(float)
    human = np.where(prompts < 20, truth, NAN)
    judge = np.where(rng.random(400) < 0.8, truth, 1 - truth)
    assert width(weighted_rate(judge, human, clusters=prompts)) > 1.5 * width(weighted_rate(judge, human))


def test_mean_by_hand_and_on_its_scale():
    # human 2 3 4, judge one more each; of all six judge scores the mean is 4, so people would give 3
    found = weighted_mean([3, 4, 5, 3, 5, 4], [2, 3, 4, None, None, None], (1, 5))
    assert found.value == pytest.approx(3.0)
    assert 1 <= found.low < 3 < found.high <= 5


@pytest.mark.parametrize("middle", [3.0, 4.6])
def test_interval_of_a_mean_covers(middle):
    rng = np.random.default_rng(5)
    truth = np.clip(np.round(middle + rng.standard_normal(200_000)), 1, 5)
    covered = []
    for _ in range(300):
        people = rng.choice(truth, 500)
        judge = np.clip(np.round(people + 0.7 * rng.standard_normal(500)), 1, 5)
        human = np.where(np.arange(500) < 40, people, NAN)
        found = weighted_mean(judge, human, (1, 5))
        covered.append(found.low <= truth.mean() <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_a_label_of_unknown_probability_is_left_out_and_counted():
    found = weighted_rate([1, 0, 1, 0], [1, 0, 1, None], [1, 1, None, 1])
    assert (found.n, found.n_dropped) == (2, 1)


@pytest.mark.parametrize(
    "judge, human, options, message",
    [
        ([1, 0], [1], {}, "one row an output in each"),
        ([1, 0], [1, 0], {"weights": [1, 0]}, "weights has 0, must be above 0"),
        ([1, 0], [1, 0], {"weights": [1, 1], "strata": [0, 0]}, "give one of them"),
        ([2, 0], [1, 0], {}, "judge has 2, must lie in 0 to 1"),
        ([1, 0], [1, 0], {"level": 0}, "level is 0"),
        ([1, 0], [1, 0], {"clusters": "a"}, "must have one an output"),
    ],
)
def test_unfit_input_is_refused_with_what_is_allowed(judge, human, options, message):
    with pytest.raises(ValueError, match=message):
        weighted_rate(judge, human, **options)
