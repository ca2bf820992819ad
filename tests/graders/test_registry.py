"""The registry finds graders by name, version and task, and each is named by the hash of its source."""

import pytest

from graders import registry
from graders.grade import GraderError


def test_a_grader_is_found_by_name_and_by_version():
    assert registry.get("neural_memory") is registry.get("neural_memory", "1")


def test_an_unknown_grader_is_named_with_those_that_exist():
    with pytest.raises(GraderError, match="no grader oracle; there are: neural_memory@1"):
        registry.get("oracle")


def test_the_graders_of_a_task_come_most_thorough_first():
    assert [g.name for g in registry.for_task("neural_memory")] == ["neural_memory", "text_match", "judge"]
    assert [g.name for g in registry.for_task("idea_proposal")] == ["judge"]


def test_each_grader_is_named_by_a_hash():
    assert len({g.sha256 for g in registry.all_graders()}) == len(registry.all_graders())
    assert all(len(g.sha256) == 64 for g in registry.all_graders())
