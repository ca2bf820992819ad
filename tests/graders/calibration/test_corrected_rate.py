"""A pass rate from many judge verdicts and few human labels (prediction-powered inference)."""

from statistics import NormalDist

import numpy as np
import pytest

from graders.calibration.inference import corrected_rate, human_rate
from graders.calibration.rates import wilson
from graders.calibration.weighted import weighted_rate


def make_study(rng, *, n=60, n_rest=300, rate=0.7, recall=0.85, false_pass=0.2):
    """Return (judge on all, judge on the labelled, human on the labelled)."""
    human = rng.random(n + n_rest) < rate
    judge = np.where(human, rng.random(len(human)) < recall, rng.random(len(human)) < false_pass).astype(float)
    return judge, judge[:n], human[:n].astype(float)


def make_prompts(rng, *, prompts=40, labelled=20, size=5, likeness=0.4):
    """Return (judge, human, prompt, is labelled) where outputs of one prompt are alike; half of all pass."""
    prompt = np.repeat(np.arange(prompts), size)

    def draw():
        shared, own = rng.standard_normal(prompts)[prompt], rng.standard_normal(len(prompt))
        return np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own

    human = draw() < 0
    judge = np.where(draw() < NormalDist().inv_cdf(0.85), human, ~human)
    return judge.astype(float), human.astype(float), prompt, prompt < labelled


def width(rate):
    return rate.high - rate.low


def test_rate_by_hand():
    # Y = 1100, F = 1110 labelled; F' = 11110000. cov = 2/4 - 2/4 * 3/4 = 1/8, var of the 12 verdicts 7 * 5 / 12 / 11,
    # lambda = (1/8) / ((1 + 4/8) * 35/132) = 0.314286, rate = 0.5 - lambda * (0.75 - 0.5) = 0.421429
    rate = corrected_rate([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0])
    assert rate.value == pytest.approx(0.421429, abs=1e-6)
    assert (rate.n, rate.method) == (4, "judge and human labels (PPI++), judge weight 0.31")


@pytest.mark.parametrize("seed", range(5))
def test_rate_is_that_of_ppi_py(seed):
    ppi_py = pytest.importorskip("ppi_py")
    judge, labelled, human = make_study(np.random.default_rng(seed))
    theirs = ppi_py.ppi_mean_pointestimate(human, labelled, judge[60:])
    assert corrected_rate(judge, labelled, human).value == pytest.approx(float(np.squeeze(theirs)), abs=1e-12)


def test_interval_comes_close_to_that_of_ppi_py_when_labels_are_many():
    ppi_py = pytest.importorskip("ppi_py")
    judge, labelled, human = make_study(np.random.default_rng(1), n=2000, n_rest=8000)
    low, high = ppi_py.ppi_mean_ci(human, labelled, judge[2000:], alpha=0.05, alternative="two-sided")
    ours = corrected_rate(judge, labelled, human)
    assert (ours.low, ours.high) == pytest.approx((float(np.squeeze(low)), float(np.squeeze(high))), abs=0.001)


@pytest.mark.parametrize("n", [12, 60])
def test_interval_covers_the_true_rate_as_often_as_it_says(n):
    rng, covered = np.random.default_rng(n), []
    for rate in (0.15, 0.5, 0.9):
        studies = [corrected_rate(*make_study(rng, n=n, rate=rate)) for _ in range(500)]
        covered += [study.low <= rate <= study.high for study in studies]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("recall, false_pass", [(0.5, 0.5), (0.2, 0.8), (0.9, 0.6), (0.85, 0.2), (1.0, 0.0)])
@pytest.mark.parametrize("n", [5, 30])
def test_interval_is_never_over_5_percent_wider_than_with_human_labels_alone(n, recall, false_pass):
    rng = np.random.default_rng([n, round(10 * recall)])
    for _ in range(60):
        judge, labelled, human = make_study(rng, n=n, recall=recall, false_pass=false_pass)
        alone = wilson(int(human.sum()), n)
        assert width(corrected_rate(judge, labelled, human)) <= 1.05 * width(alone) + 1e-12


def test_a_good_judge_shortens_the_interval():
    rng = np.random.default_rng(5)
    studies = [make_study(rng, recall=0.95, false_pass=0.1) for _ in range(50)]
    ratio = [width(corrected_rate(*s)) / width(wilson(int(s[2].sum()), 60)) for s in studies]
    assert np.mean(ratio) < 0.75


def test_a_generous_judge_is_corrected():
    rng = np.random.default_rng(6)
    studies = [make_study(rng, rate=0.4, recall=0.95, false_pass=0.5) for _ in range(200)]
    assert np.mean([s[0].mean() for s in studies]) > 0.65  # what the judge says
    assert np.mean([corrected_rate(*s).value for s in studies]) == pytest.approx(0.4, abs=0.015)


def test_a_judge_who_agreed_everywhere_is_not_taken_to_be_faultless():
    # 20 of 20 agree; a judge wrong on up to 3 / 20 of outputs would still do so 4 times in 100 (0.85 ^ 20)
    human = [1.0] * 12 + [0.0] * 8
    rate = corrected_rate(human + [1.0] * 6000 + [0.0] * 4000, human, human)
    assert 0.1 < width(rate) < width(wilson(12, 20))


def test_labelled_outputs_in_judge_all_or_apart_give_the_same():
    judge, labelled, human = make_study(np.random.default_rng(2))
    assert corrected_rate(judge, labelled, human) == corrected_rate(judge[60:], labelled, human, labelled_in_all=False)


def test_order_of_outputs_does_not_matter():
    rng = np.random.default_rng(3)
    judge, labelled, human = make_study(rng)
    turned, order = corrected_rate(rng.permutation(judge), labelled, human), rng.permutation(60)
    again = corrected_rate(judge, labelled[order], human[order])
    assert (turned.value, turned.low) == pytest.approx((again.value, again.low))


def test_passes_and_failures_mirror_each_other():
    judge, labelled, human = make_study(np.random.default_rng(4))
    passed, failed = corrected_rate(judge, labelled, human), corrected_rate(1 - judge, 1 - labelled, 1 - human)
    assert (passed.value, passed.low) == pytest.approx((1 - failed.value, 1 - failed.high))


@pytest.mark.parametrize(
    "judge_all, judge, human, why",
    [
        ([1, 0, 1, 1, 0], [1, 0, 1], [1, 1, 1], "every human label is the same"),
        ([1, 1, 1, 1, 1], [1, 1, 1], [1, 0, 1], "the judge gives every output the same verdict"),
        ([1, 0, 1], [1, 0, 1], [1, 0, 0], "every judged output has a human label"),
        ([1, 0, 1, 1, 0], [1, 0, 1], [0, 1, 0], "the judge does not follow the human labels"),
        ([1, 0], [1], [1], "every human label is the same"),
    ],
)
def test_a_judge_of_no_use_leaves_wilson_of_the_human_labels_and_says_so(judge_all, judge, human, why):
    rate, alone = corrected_rate(judge_all, judge, human), wilson(sum(human), len(human))
    assert (rate.value, rate.low, rate.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert rate.method == f"human labels only (Wilson): {why}"


@pytest.mark.parametrize("judge, human, dropped", [([], [], 0), ([1, None], [None, 1], 2)])
def test_without_a_labelled_output_there_is_no_rate(judge, human, dropped):
    rate = corrected_rate([1, 0, 1], judge, human)
    assert (rate.value, rate.low, rate.n, rate.n_dropped) == (None, None, 0, dropped)
    assert rate.why_missing == "not defined, because no output has both a judge verdict and a human label"


def test_unscored_outputs_are_left_out_and_counted():
    judge, labelled, human = make_study(np.random.default_rng(7))
    with_gaps = corrected_rate([*judge, None, np.nan], [*labelled, None, 1], [*human, 1, None])
    assert (with_gaps.n, with_gaps.n_dropped) == (60, 2)
    assert with_gaps.value == corrected_rate(judge, labelled, human).value


def test_outputs_of_one_prompt_count_for_less():
    judge, human, prompt, labelled = make_prompts(np.random.default_rng(8), likeness=0.8)
    by_prompt = {"clusters_all": prompt, "clusters_labelled": prompt[labelled]}
    apart = corrected_rate(judge, judge[labelled], human[labelled])
    together = corrected_rate(judge, judge[labelled], human[labelled], **by_prompt)
    assert together.value == apart.value
    assert width(together) > 1.2 * width(apart)


def test_interval_by_prompts_covers_where_the_one_by_outputs_does_not():
    rng, by_prompt, by_output = np.random.default_rng(9), [], []
    for _ in range(300):
        judge, human, prompt, labelled = make_prompts(rng)
        study = (judge, judge[labelled], human[labelled])
        by_prompt.append(corrected_rate(*study, clusters_all=prompt, clusters_labelled=prompt[labelled]))
        by_output.append(corrected_rate(*study))
    assert 0.93 <= np.mean([r.low <= 0.5 <= r.high for r in by_prompt]) <= 0.98
    assert np.mean([r.low <= 0.5 <= r.high for r in by_output]) < 0.9


@pytest.mark.parametrize("n", [1, 2, 60])
def test_prompts_of_one_output_are_the_same_as_no_prompts(n):
    judge, labelled, human = make_study(np.random.default_rng(10), n=n)
    single = corrected_rate(judge, labelled, human, clusters_all=range(len(judge)), clusters_labelled=range(n))
    assert single == corrected_rate(judge, labelled, human)


def test_labels_of_one_prompt_give_a_rate_without_an_interval():
    rate = corrected_rate([1, 0, 1, 0], [1, 0], [1, 0], clusters_all="aabb", clusters_labelled="aa")
    assert (rate.value, rate.low, rate.why_missing) == (0.5, None, "no interval: all human labels belong to one prompt")


def test_labels_all_alike_within_prompts_count_a_prompt_as_one_output():
    prompts = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    rate = corrected_rate([1] * 30, [1] * 30, [1] * 30, clusters_all=prompts, clusters_labelled=prompts)
    assert rate.low < wilson(3, 3).low


@pytest.mark.parametrize(
    "change, message",
    [
        ({"judge_all": [1, 0, 2]}, "judge_all has 2, must lie in 0 to 1"),
        ({"human_labelled": [1]}, "judge_labelled has 2 outputs, human_labelled 1"),
        ({"judge_all": [1, 1, 1]}, "judge_all lacks 1 of the 2 labelled outputs"),
        ({"clusters_all": "abc"}, "give both or neither"),
        ({"clusters_all": "abc", "clusters_labelled": "a"}, "must have one an output"),
        ({"level": 95}, "level is 95, must lie between 0 and 1"),
        ({"judge_all": [[1, 0]]}, "judge_all has 2 dimensions, must have 1"),
        ({"judge_all": [1, np.inf]}, "judge_all has an infinite score"),
    ],
)
def test_unfit_input_is_refused_with_what_is_allowed(change, message):
    study = {"judge_all": [1, 0, 1], "judge_labelled": [1, 0], "human_labelled": [1, 1]}
    with pytest.raises(ValueError, match=message):
        corrected_rate(**{**study, **change})


@pytest.mark.parametrize("prompts", [False, True])
def test_where_the_judge_graded_few_of_the_labelled_outputs_all_labels_alone_are_used(prompts):
    rng = np.random.default_rng(5)
    human, prompt = (rng.random(100) < 0.4).astype(float), np.arange(100) // 2
    judge = np.where(np.arange(100) < 20, human, np.nan)
    rest, groups = (rng.random(40) < 0.4).astype(float), {}
    if prompts:
        groups = {"clusters_all": np.arange(100, 140), "clusters_labelled": prompt}
    rate = corrected_rate(rest, judge, human, **groups, labelled_in_all=False)
    alone = human_rate(human, clusters=groups.get("clusters_labelled"))
    assert (rate.low, rate.high, rate.n) == (alone.low, alone.high, 100)
    assert rate.method == "human labels only: the judge graded too few of the labelled outputs"
    weighted = weighted_rate([*judge, *rest], [*human, *[None] * 40], clusters=[*prompt, *range(100, 140)] if prompts else None)
    assert (weighted.n, weighted.method) == (100, rate.method)


def test_what_people_say_alone_is_wilsons_of_those_they_decided_wider_where_a_prompts_outputs_are_alike():
    human = [1, 1, None, 0, 0, 1, 1, 0, 0]
    alone = human_rate(human)
    plain = wilson(4, 8)
    assert (alone.low, alone.high, alone.n, alone.n_dropped) == (pytest.approx(plain.low), pytest.approx(plain.high), 8, 1)
    assert human_rate(human, clusters="aaabbccdd").low < alone.low
    assert human_rate([None], clusters="a").why_missing == "not defined, because no output has a human label"
    with pytest.raises(ValueError, match="human has 2, must lie in 0 to 1"):
        human_rate([2])
