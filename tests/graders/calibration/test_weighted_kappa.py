"""Agreement of a judge with the median human: quadratic-weighted Cohen kappa and its bootstrap interval."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from graders.calibration.agreement import cohen_kappa, weighted_kappa

SCALE = (1, 2, 3, 4, 5)
CUTS = np.array([-1.5, -0.7, 0.3, 1.2])
SHARED = Path(os.environ.get("TOUCHSTONE_SHARED") or Path(__file__).resolve().parents[4] / "shared")


def make_scores(rng, *, prompts=60, size=1, closeness=0.6, likeness=0.0, cuts=CUTS):
    """Return (judge, human, prompt), scores from 1 up, correlated by closeness before they are cut into labels."""
    prompt = np.repeat(np.arange(prompts), size)

    def draw():
        shared, own = rng.standard_normal(prompts)[prompt], rng.standard_normal(len(prompt))
        return np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own

    human = draw()
    judge = closeness * human + np.sqrt(1 - closeness**2) * draw()
    return np.searchsorted(cuts, judge) + 1.0, np.searchsorted(cuts, human) + 1.0, prompt


def theirs(*scores, **options):
    from sklearn.metrics import cohen_kappa_score  # here, as it takes a second that each process of tests would pay

    return cohen_kappa_score(*scores, **options)


@pytest.fixture
def rng():
    return np.random.default_rng(42)


def test_kappa_by_hand(rng):
    # judge 1 2 3 3, human 1 2 3 2: one disagreement of weight 1, so observed 1/4.
    # By chance: judge 1:1 2:1 3:2, human 1:1 2:2 3:1; sum of judge_j human_i (i - j)^2 / 16 =
    # (j1: 2 + 4) + (j2: 1 + 1) + (j3: 2 * (4 + 2)) = 20, so 20/16. kappa = 1 - (1/4) / (20/16) = 0.8
    kappa = weighted_kappa([1, 2, 3, 3], [1, 2, 3, 2], (1, 2, 3), rng=rng)
    assert (kappa.value, kappa.n) == (pytest.approx(0.8), 4)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    judge, human, _ = make_scores(rng)
    expected = theirs(judge, human, weights="quadratic", labels=SCALE)
    assert weighted_kappa(judge, human, SCALE, rng=rng, n_boot=10).value == pytest.approx(expected, abs=1e-12)


def test_pass_fail_kappa_is_that_of_scikit_learn(rng):
    judge, human = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    assert cohen_kappa(judge, human, rng=rng, n_boot=10).value == pytest.approx(theirs(judge, human))


def test_kappa_is_the_concordance_coefficient_of_lin(rng):
    judge, human, _ = make_scores(rng)
    moved = judge.var() + human.var() + (judge.mean() - human.mean()) ** 2
    lin = 2 * np.cov(judge, human, ddof=0)[0, 1] / moved
    assert weighted_kappa(judge, human, SCALE, rng=rng, n_boot=10).value == pytest.approx(lin)


def read_summeval(aspect):
    folder = SHARED / "data" / "alttest" / "summeval"
    if not folder.is_dir():
        pytest.skip(f"SummEval annotations are not in {folder}; set TOUCHSTONE_SHARED")
    human = json.loads((folder / "human_annotations.json").read_text())
    judge = json.loads((folder / "llm_annotations.json").read_text())["gpt-4o"]
    items = sorted(item for item in judge if item.endswith("__" + aspect))
    ratings = [[human[who].get(item) for who in human] for item in items]
    return [judge[item] for item in items], ratings, [item.split("__")[0] for item in items]


GPT_4O = {"coherence": 0.4590, "consistency": 0.4661, "fluency": 0.1744, "relevance": 0.1981}


@pytest.mark.parametrize("aspect, published", GPT_4O.items())
def test_summeval_gpt_4o_against_the_median_of_three_experts(aspect, published, rng):
    judge, ratings, documents = read_summeval(aspect)
    kappa = weighted_kappa(judge, ratings, SCALE, rng=rng, clusters=documents, n_boot=200)
    assert (round(kappa.value, 4), kappa.n) == (published, 1600)
    assert 0.02 < kappa.value - kappa.low < 0.15


def test_swapping_judge_and_human_changes_nothing(rng):
    judge, human, _ = make_scores(rng)
    there, back = (weighted_kappa(*pair, SCALE, rng=rng, n_boot=10) for pair in ((judge, human), (human, judge)))
    assert there.value == pytest.approx(back.value)


def test_twice_the_data_keep_the_kappa_and_shorten_the_interval(rng):
    judge, human, _ = make_scores(rng)
    once = weighted_kappa(judge, human, SCALE, rng=rng)
    twice = weighted_kappa([*judge, *judge], [*human, *human], SCALE, rng=rng)
    assert twice.value == pytest.approx(once.value)
    assert twice.high - twice.low < 0.85 * (once.high - once.low)


def test_the_median_human_is_rounded_half_up(rng):
    ratings = [[1, 2], [3, 4], [5, 5], [1, None]]  # medians 1.5, 3.5, 5, 1 become 2, 4, 5, 1
    assert weighted_kappa([2, 4, 5, 1], ratings, SCALE, rng=rng).value == 1


def test_the_judge_is_rounded_half_up_to_the_labels_of_the_scale(rng):
    judge = [0.24, 0.25, 0.74, 0.75]  # labels 0, .5, .5, 1
    assert weighted_kappa(judge, [0, 0.5, 0.5, 1], (0, 0.5, 1), rng=rng).value == 1


def test_a_tie_of_two_raters_on_a_pass_counts_as_a_pass(rng):
    assert cohen_kappa([1, 0, 1], [[1, 0], [0, 0], [1, 1]], rng=rng).value == 1


def test_the_same_seed_gives_the_same_interval():
    judge, human, _ = make_scores(np.random.default_rng(1))
    first, second = (weighted_kappa(judge, human, SCALE, rng=np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_full_agreement_still_has_a_width(rng):
    few, many = (weighted_kappa([1, 0] * n, [1, 0] * n, (0, 1), rng=rng) for n in (5, 50))
    assert (few.value, few.high) == (1, 1)
    assert few.low < 0.75 < many.low < 0.99


@pytest.mark.parametrize(
    "judge, human, why",
    [
        ([], [], "no output has both a judge score and a human one"),
        ([1, None], [None, 2], "no output has both a judge score and a human one"),
        ([3, 3, 3], [1, 2, 3], "the judge gives all 3 outputs the label 3"),
        ([1, 2, 3], [5, 5, 5], "the humans give all 3 outputs the label 5"),
        ([4], [4], "the judge gives the only output the label 4"),
    ],
)
def test_where_kappa_is_not_defined_it_says_why(judge, human, why, rng):
    kappa = weighted_kappa(judge, human, SCALE, rng=rng)
    assert (kappa.value, kappa.low, kappa.high, kappa.why_missing) == (None, None, None, f"not defined, because {why}")


def test_outputs_without_both_scores_are_left_out_and_counted(rng):
    judge, human, prompt = make_scores(rng)
    kappa = weighted_kappa([*judge, None, 3], [*human, 3, np.nan], SCALE, rng=rng, clusters=[*prompt, "x", "y"])
    assert (kappa.n, kappa.n_dropped) == (60, 2)
    assert kappa.value == weighted_kappa(judge, human, SCALE, rng=rng).value


def test_interval_covers_the_true_kappa_as_often_as_it_says():
    rng, covered = np.random.default_rng(10), []
    for closeness in (0.0, 0.6, 0.9):
        true = theirs(*make_scores(rng, prompts=500_000, closeness=closeness)[:2], weights="quadratic")
        for _ in range(500):
            judge, human, _ = make_scores(rng, closeness=closeness)
            kappa = weighted_kappa(judge, human, SCALE, rng=rng, n_boot=300)
            covered.append(kappa.low <= true <= kappa.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_interval_by_prompts_covers_where_the_one_by_outputs_does_not():
    rng, cuts = np.random.default_rng(11), np.array([0.0])
    true = theirs(*make_scores(rng, prompts=500_000, cuts=cuts)[:2])
    by_prompt, by_output = [], []
    for _ in range(300):
        judge, human, prompt = make_scores(rng, prompts=30, size=8, likeness=0.8, cuts=cuts)
        by_prompt.append(cohen_kappa(judge - 1, human - 1, rng=rng, clusters=prompt, n_boot=300))
        by_output.append(cohen_kappa(judge - 1, human - 1, rng=rng, n_boot=300))
    assert 0.93 <= np.mean([k.low <= true <= k.high for k in by_prompt]) <= 0.98
    assert np.mean([k.low <= true <= k.high for k in by_output]) < 0.85


def test_prompts_of_one_output_are_the_same_as_no_prompts(rng):
    judge, human, prompt = make_scores(rng)
    apart = weighted_kappa(judge, human, SCALE, rng=rng, n_boot=20_000)
    single = weighted_kappa(judge, human, SCALE, rng=rng, clusters=prompt, n_boot=20_000)
    assert (single.low, single.high) == pytest.approx((apart.low, apart.high), abs=0.02)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"judge": [1, 2, 7]}, "judge has 7, must lie in 1 to 5"),
        ({"human": [[1], [2], [0]]}, "human has 0, must lie in 1 to 5"),
        ({"human": [1, 2]}, "judge has 3 outputs, human 2"),
        ({"labels": (1,)}, "must be two or more, rising"),
        ({"labels": (5, 1)}, "must be two or more, rising"),
        ({"clusters": "ab"}, "clusters has 2 entries, must have one an output: 3"),
        ({"level": 95}, "level is 95"),
    ],
)
def test_unfit_input_is_refused_with_what_is_allowed(change, message, rng):
    call = {"judge": [1, 2, 3], "human": [1, 2, 4], "labels": SCALE, "rng": rng}
    with pytest.raises(ValueError, match=message):
        weighted_kappa(**{**call, **change})
