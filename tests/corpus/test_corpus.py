"""The corpus is whole: every file is labelled in full, the mix is as promised, and the labels agree with the rubrics."""

from __future__ import annotations

import ast

import pytest

from tasks.task import SHIPPED_TASKS, is_pass, load_rubric
from tests.corpus.corpus import HALVES, ROOT, TASKS, read

EVERY_HALF = [(task, half) for task in TASKS for half in HALVES]


def everything(task):
    return [submission for half in HALVES for submission in read(task, half)]


def rubric_of(task):
    return load_rubric(SHIPPED_TASKS / task / "rubric.toml")


@pytest.mark.parametrize(("task", "half"), EVERY_HALF)
def test_every_file_has_a_label_and_every_label_a_file(task, half):
    assert {s.path for s in read(task, half)} == set((ROOT / task / half).glob("*.py"))


@pytest.mark.parametrize("task", TASKS)
def test_every_submission_is_labelled_on_every_criterion_of_its_task(task):
    keys = {criterion.key for criterion in rubric_of(task).criteria}
    assert {s.name: set(s.criteria) ^ keys for s in everything(task) if set(s.criteria) != keys} == {}


@pytest.mark.parametrize("task", TASKS)
def test_passed_is_what_the_rubric_makes_of_the_criteria(task):
    rubric = rubric_of(task)
    for s in everything(task):
        scores = {key: 10.0 if passed else 0.0 for key, passed in s.criteria.items()}
        assert s.passed == is_pass(rubric, scores, None, runs=s.runs), s.name


@pytest.mark.parametrize("task", TASKS)
def test_no_adversarial_submission_is_labelled_as_passed(task):
    assert [s.name for s in everything(task) if s.adversarial and s.passed] == []


@pytest.mark.parametrize("task", TASKS)
def test_what_fails_has_a_reason(task):
    assert [s.name for s in everything(task) if not s.passed and len(s.why) < 20] == []


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_forty_submissions_or_more_and_a_third_of_them_adversarial(task):
    submissions = everything(task)
    assert len(submissions) >= 40
    assert sum(s.adversarial for s in submissions) >= len(submissions) / 3


@pytest.mark.parametrize("task", TASKS)
def test_both_halves_have_the_same_mix(task):
    mixes = [(len(half), sum(s.adversarial for s in half), sum(s.passed for s in half)) for half in (read(task, h) for h in HALVES)]
    assert all(abs(a - b) <= 1 for a, b in zip(*mixes, strict=True)), mixes


@pytest.mark.parametrize(("task", "half"), EVERY_HALF)
def test_every_submission_parses(task, half):
    for submission in read(task, half):
        ast.parse(submission.source, str(submission.path))


@pytest.mark.parametrize("task", TASKS)
def test_each_criterion_is_passed_by_some_and_failed_by_others_in_both_halves(task):
    for half in HALVES:
        for criterion in rubric_of(task).criteria:
            assert {s.criteria[criterion.key] for s in read(task, half)} == {True, False}, (half, criterion.key)


@pytest.mark.parametrize("task", TASKS)
def test_no_two_submissions_are_the_same_text(task):
    sources = [submission.source for submission in everything(task)]
    assert len(set(sources)) == len(sources)
