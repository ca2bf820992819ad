"""memory_optimization: which techniques take effect in the program that runs, on a pretended GPU."""

from __future__ import annotations

from functools import cache

import pytest

from graders.code.memory_optimization import KEYS, MemoryOptimizationGrader
from graders.grade import Grade
from tasks.task import Task, load_tasks
from tests.corpus.corpus import read

SUBMISSIONS = {s.path.stem.split("-", 1)[1]: s for s in read("memory_optimization", "build")}
# Between them each technique is in effect at least once, and absent at least once.
SOME = ("state-parked-on-host", "adam8bit-chunked-loss", "compile-and-adafactor", "packed-activations-hooks")


@cache
def task() -> Task:
    return next(t for t in load_tasks() if t.slug == "memory_optimization")


@cache
def graded(name: str) -> Grade:
    source = task().starter if name == "starter" else SUBMISSIONS[name].source
    return MemoryOptimizationGrader().grade(task(), source)


@pytest.mark.parametrize("name", SOME)
def test_a_submission_has_the_techniques_that_it_is_labelled_with(name):
    assert {c.key: c.passed for c in graded(name).criteria} == SUBMISSIONS[name].criteria


def test_the_submissions_above_cover_every_technique():
    assert {key for name in SOME for key, passed in SUBMISSIONS[name].criteria.items() if passed} == set(KEYS)


def test_the_starter_has_none_and_says_of_each_what_was_seen_instead():
    found = graded("starter")
    assert found.runs and found.passed is False and found.failure_category == "too_few_optimizations"
    assert all(c.passed is False and c.rationale for c in found.criteria)


def test_evidence_stands_on_the_line_that_does_it():
    found = next(c for c in graded("starter").criteria if c.key == "sdpa_flash_attention")
    assert [e.text for e in found.evidence] == ['weights = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)']


def test_the_peak_is_measured_beside_the_starters():
    sandbox = graded("adam8bit-chunked-loss").sandbox
    assert sandbox["gpu"] == "pretended"
    assert 0 < sandbox["gpu_peak_mb"] < 0.5 * sandbox["starter_gpu_peak_mb"]


def test_the_wrong_autocast_interface_does_not_run_and_the_rest_is_judged_all_the_same():
    found, label = graded("wrong-autocast-interface"), SUBMISSIONS["wrong-autocast-interface"]
    assert found.runs is False and found.passed is False and found.failure_category == "wrong_autocast_api"
    assert "device_type" in (found.error or "")
    assert {c.key: c.passed for c in found.criteria} == label.criteria


def test_a_program_that_prints_its_results_without_training_has_none():
    found = graded("prints-without-training")
    assert found.passed is False
    assert {c.passed for c in found.criteria} == {False}
