"""Do formatting, or words addressed to the judge, move it at equal human score?"""

import numpy as np
import pytest

from graders.calibration.probes import formatting_bias, injection_bias
from graders.calibration.texts import formatting_marks


def make_study(n=300, effect=0.0):
    rng = np.random.default_rng(0)
    human = np.clip(3 + rng.standard_normal(n), 1, 5)
    moved = (rng.random(n) < 0.3).astype(float)
    return human + effect * moved + 0.5 * rng.standard_normal(n), human, moved


@pytest.mark.parametrize("probe", [formatting_bias, injection_bias])
def test_a_judge_that_is_moved_is_found_and_one_that_is_not_is_not(probe):
    judge, human, moved = make_study(effect=1.0)
    found = probe(judge, human, moved, range(300))
    assert found.low > 0
    judge, human, moved = make_study()
    assert probe(judge, human, moved, range(300)).low < 0.1


def test_the_injection_probe_is_in_points():
    judge, human, moved = make_study(effect=1.0)
    assert injection_bias(judge, human, moved, range(300)).value == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    "probe, covariate, why",
    [
        (formatting_bias, [1.0] * 10, "not defined, because the outputs are formatted alike"),
        (injection_bias, [0.0] * 10, "not defined, because no output speaks to the judge"),
        (injection_bias, [1.0] * 10, "not defined, because every output speaks to the judge"),
    ],
)
def test_without_a_contrast_there_is_no_effect(probe, covariate, why):
    assert probe(range(10), range(10), covariate, range(10)).why_missing == why


def test_formatting_is_counted_by_its_marks():
    assert formatting_marks("# A\n## B\n1. one\n* two\n| a | b |\n```\ncode\n```\n**bold** and __bold__") == 9
    assert formatting_marks("Plain prose, 2 * 3 * 4 - 5 | 6.") == 0
