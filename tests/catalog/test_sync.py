"""Bringing task folders in: new content is a new version, history stays."""

import shutil

import pytest
from django.core.management import CommandError, call_command

from reviewapp.catalog.sync import sync_tasks
from reviewapp.models import Criterion, Grader, Task
from tasks.task import SHIPPED_TASKS


@pytest.fixture
def own_task(tmp_path, settings):
    """A task of the user's, as a folder beside the shipped ones."""
    folder = tmp_path / "mine"
    shutil.copytree(SHIPPED_TASKS / "idea_proposal", folder)
    text = (folder / "task.toml").read_text().replace("idea_proposal", "mine")
    (folder / "task.toml").write_text(text)
    settings.TASKS_DIRS = [tmp_path]
    return folder


@pytest.mark.django_db
def test_the_five_tasks_come_in_with_rubric_and_variants():
    sync_tasks()
    assert set(Task.objects.values_list("slug", flat=True)) == {
        "neural_memory", "literature_review", "idea_proposal", "fsdp_training", "memory_optimization",
    }  # fmt: skip
    assert Task.objects.get(slug="neural_memory").variants.count() == 4
    weights = Criterion.objects.filter(rubric__task__slug="idea_proposal").values_list("key", "weight")
    assert dict(weights) == {"viability": 0.30, "upside": 0.25, "success": 0.30, "novelty": 0.15}
    assert set(Grader.objects.values_list("name", flat=True)) >= {"neural_memory", "text_match"}


@pytest.mark.django_db
def test_a_second_sync_changes_nothing():
    sync_tasks()
    assert sync_tasks().lines == []


@pytest.mark.django_db
def test_a_changed_prompt_is_a_new_version_and_the_old_one_stays(own_task):
    sync_tasks()
    prompt = next((own_task / "prompts").glob("*.md"))
    before = prompt.read_text()
    prompt.write_text(before + "\nOne more line.\n")
    report = sync_tasks()
    versions = Task.objects.get(slug="mine").variants.filter(name=prompt.stem).order_by("version")
    assert report.lines == [f"mine: variant {prompt.stem} v2"]
    assert [(v.version, v.is_current, v.prompt == before) for v in versions] == [(1, False, True), (2, True, False)]


@pytest.mark.django_db
def test_going_back_to_an_old_wording_makes_that_version_current_again(own_task):
    prompt = next((own_task / "prompts").glob("*.md"))
    before = prompt.read_text()
    for text in (before, before + "more", before):
        prompt.write_text(text)
        sync_tasks()
    versions = Task.objects.get(slug="mine").variants.filter(name=prompt.stem)
    assert versions.count() == 2
    assert versions.get(is_current=True).version == 1


@pytest.mark.django_db
def test_a_changed_weight_is_a_new_rubric_version(own_task):
    sync_tasks()
    rubric = own_task / "rubric.toml"
    rubric.write_text(rubric.read_text().replace("pass_threshold = 7.0", "pass_threshold = 6.5"))
    sync_tasks()
    task = Task.objects.get(slug="mine")
    assert [r.pass_threshold for r in task.rubrics.order_by("version")] == [7.0, 6.5]
    assert task.rubric.version == 2


@pytest.mark.django_db
def test_a_broken_task_is_named_and_nothing_comes_in(own_task):
    (own_task / "rubric.toml").write_text("[rubric]\nscale = [10, 0]\n")
    with pytest.raises(CommandError, match="mine"):
        call_command("sync_tasks")
    assert not Task.objects.exists()
