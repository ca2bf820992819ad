"""The corpus is whole: every file is labelled in full, the mix is as promised, and the labels agree with the rubrics."""

from __future__ import annotations

import ast

import pytest

from tasks.task import SHIPPED_TASKS, is_pass, load_rubric
from tests.corpus.corpus import ROOT, TASKS, parts, read

EVERY_PART = [(task, part) for task in TASKS for part in parts(task)]


def everything(task):
    return [submission for part in parts(task) for submission in read(task, part)]


def rubric_of(task):
    return load_rubric(SHIPPED_TASKS / task / "rubric.toml")


@pytest.mark.parametrize(("task", "part"), EVERY_PART)
def test_every_file_has_a_label_and_every_label_a_file(task, part):
    assert {s.path for s in read(task, part)} == set((ROOT / task / part).glob("*.py"))


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


@pytest.mark.parametrize(("task", "part"), EVERY_PART)
def test_each_part_has_passes_near_misses_and_adversarial_ones(task, part):
    found = read(task, part)
    kinds = [sum(s.passed for s in found), sum(not s.passed and not s.adversarial for s in found), sum(s.adversarial for s in found)]
    assert min(kinds) >= len(found) / 5, kinds


@pytest.mark.parametrize(("task", "part"), EVERY_PART)
def test_every_submission_parses(task, part):
    for submission in read(task, part):
        ast.parse(submission.source, str(submission.path))


@pytest.mark.parametrize("task", TASKS)
def test_each_criterion_is_passed_by_some_and_failed_by_others(task):
    for criterion in rubric_of(task).criteria:
        assert {s.criteria[criterion.key] for s in read(task, "build")} == {True, False}, criterion.key


@pytest.mark.parametrize("task", TASKS)
def test_no_two_submissions_are_the_same_text(task):
    sources = [submission.source for submission in everything(task)]
    assert len(set(sources)) == len(sources)
