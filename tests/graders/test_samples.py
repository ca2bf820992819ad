"""The shipped neural memory samples: the grader agrees with their labels wherever it decides."""

import tomllib
from pathlib import Path

import pytest

from tests.graders.checks import grade

FOLDER = Path(__file__).resolve().parents[2] / "reviewapp" / "samples" / "neural_memory"
ROWS = tomllib.loads((FOLDER / "samples.toml").read_text())["output"] if (FOLDER / "samples.toml").is_file() else []


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_a_sample_is_graded_as_it_is_labelled(row):
    found, label = grade((FOLDER / row["file"]).read_text()), row["label"]
    assert found.runs is label["runs"]
    decided = {c.key: c.passed for c in found.criteria if c.passed is not None}
    assert decided == {key: label["criteria"][key]["passed"] for key in decided}
    assert len(decided) == (6 if found.runs else 0)
