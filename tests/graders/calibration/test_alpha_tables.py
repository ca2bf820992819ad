"""With resamples alpha comes from tables of kinds of outputs; it is that of the plain formula, whatever the scores look like."""

import numpy as np
import pytest

from graders.calibration import alpha
from graders.calibration.resample import Resamples


def scores(n: int, raters: int, values: int, step: float = 1.0) -> np.ndarray:
    """Raters who agree somewhat, a fifth of their scores missing."""
    rng = np.random.default_rng(n)
    table = np.clip(rng.integers(0, values, (n, 1)) + rng.integers(-1, 2, (n, raters)), 0, values - 1) * step
    return np.where(rng.random(table.shape) < 0.2, np.nan, table)


SHAPES = {
    "few values": scores(300, 3, 5),
    "half points": scores(300, 3, 9, 0.5),
    "too many kinds to be numbered": scores(200, 12, 25),
    "as many values as outputs": scores(60, 2, 400),
}


@pytest.mark.parametrize("metric", alpha.METRICS)
@pytest.mark.parametrize("table", SHAPES.values(), ids=SHAPES)
def test_alpha_from_tables_is_alpha_by_its_formula(table, metric):
    draws = Resamples(range(len(table)), rng=np.random.default_rng(0), n_boot=20)
    with_tables, plain = alpha.krippendorff_alpha(table, metric, draws), alpha.krippendorff_alpha(table, metric)
    assert with_tables.value == pytest.approx(plain.value, abs=1e-12)
    assert (with_tables.n, with_tables.n_dropped) == (plain.n, plain.n_dropped)
    judge, people = table[:, 0], table[:, 1:]
    expected = alpha.judge_alpha(judge, people, metric)
    assert alpha.judge_alpha(judge, people, metric, draws).value == pytest.approx(expected.value, abs=1e-12)


def test_all_metrics_at_once_are_those_one_by_one():
    table = SHAPES["few values"]
    draws = Resamples(np.arange(len(table)) // 5, rng=np.random.default_rng(0), n_boot=50)
    assert alpha.krippendorff_alphas(table, alpha.METRICS, draws) == {m: alpha.krippendorff_alpha(table, m, draws) for m in alpha.METRICS}


def test_sums_by_kind_are_sums_over_the_items_of_each_kind():
    rng = np.random.default_rng(5)
    kind, columns = rng.integers(0, 7, 90), rng.normal(size=(7, 3))
    draws = Resamples(rng.integers(0, 30, 90), rng=rng, n_boot=40)
    assert draws.sums_by_kind(kind, columns) == pytest.approx(draws.sums(columns[kind]))
