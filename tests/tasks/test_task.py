"""A task folder: what is read out of it, and how each mistake is told."""

from __future__ import annotations

import dataclasses

import pytest

from tasks.task import TaskError, load_task, load_tasks
from tests.tasks.folders import make_folder


def refuses(folder, because: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(folder)
    assert because in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_least_folder_takes_its_name_as_slug_and_title(tmp_path):
    task = load_task(make_folder(tmp_path))
    assert (task.slug, task.title, task.output_format) == ("essay", "essay", "markdown")
    assert (task.starter, task.judge_instructions, task.primary_grader) == ("", "", "")
    assert (task.tools, task.graders, task.target_band) == ((), (), (0.05, 0.30))


def test_every_field_is_read(tmp_path):
    folder = make_folder(
        tmp_path,
        task='slug = "essay-2"\ntitle = "Essay"\ndescription = "One page."\noutput_format = "text"\n'
        'tools = ["web_search"]\ngraders = ["spelling"]\nprimary_grader = "spelling"\ntarget_band = [0.1, 0.2]\n',
    )
    (folder / "starter.py").write_text("x = 1\n", encoding="utf-8")
    (folder / "judge.md").write_text("Be strict.\n", encoding="utf-8")
    task = load_task(folder)
    assert (task.slug, task.title, task.description, task.output_format) == ("essay-2", "Essay", "One page.", "text")
    assert (task.tools, task.graders, task.primary_grader) == (("web_search",), ("spelling",), "spelling")
    assert (task.target_band, task.starter, task.judge_instructions) == ((0.1, 0.2), "x = 1\n", "Be strict.\n")


def test_unknown_field_is_named_with_those_allowed(tmp_path):
    refuses(make_folder(tmp_path, task='titel = "Essay"'), "unknown field 'titel', allowed: description")


def test_unknown_field_of_a_variant_is_named(tmp_path):
    folder = make_folder(tmp_path, task='[[variant]]\nname = "default"\nprompt = "x"')
    refuses(folder, "[[variant]] 1: unknown field 'prompt'")


@pytest.mark.parametrize("slug", ["Essay", "my essay", "", "../essay", "essay\\n"])
def test_slug_that_cannot_stand_in_a_url_is_refused(tmp_path, slug):
    refuses(make_folder(tmp_path, task=f'slug = "{slug}"'), "slug is")


def test_unknown_output_format_is_refused(tmp_path):
    folder = make_folder(tmp_path, task='output_format = "pdf"')
    refuses(folder, "output_format is 'pdf', allowed: markdown, python, text")


@pytest.mark.parametrize("band", ["[0.3, 0.05]", "[0.5]", "[0, 5]", "0.3", '["a", "b"]'])
def test_target_band_that_is_no_range_of_rates_is_refused(tmp_path, band):
    refuses(make_folder(tmp_path, task=f"target_band = {band}"), "target_band")


def test_tools_and_graders_must_be_lists(tmp_path):
    refuses(make_folder(tmp_path, "a", task='tools = "web_search"'), "tools is 'web_search', must be a list")
    refuses(make_folder(tmp_path, "b", task='graders = "spelling"'), "graders is 'spelling', must be a list")


def test_primary_grader_must_be_the_judge_or_one_of_the_graders(tmp_path):
    folder = make_folder(tmp_path, "a", task='graders = ["spelling"]\nprimary_grader = "speling"')
    refuses(folder, "primary_grader is 'speling', allowed: spelling, judge")
    assert load_task(make_folder(tmp_path, "b", task='primary_grader = "judge"')).primary_grader == "judge"


def test_variants_come_in_the_order_of_their_tables_and_then_by_name(tmp_path):
    task = '[[variant]]\nname = "terse"\ntitle = "Terse"\ndescription = "Says little."\n'
    folder = make_folder(tmp_path, task=task, prompts={"a": "A", "b": "B", "terse": "T"})
    variants = load_task(folder).variants
    assert [(v.name, v.prompt) for v in variants] == [("terse", "T"), ("a", "A"), ("b", "B")]
    assert (variants[0].title, variants[0].description, variants[1].title) == ("Terse", "Says little.", "a")


def test_variant_without_its_prompt_file_is_refused(tmp_path):
    refuses(make_folder(tmp_path, task='[[variant]]\nname = "terse"'), "variant 'terse' has no prompts/terse.md")


def test_folder_without_prompts_is_refused(tmp_path):
    refuses(make_folder(tmp_path, prompts={}), "needs at least one <variant>.md")


def test_empty_prompt_is_refused(tmp_path):
    refuses(make_folder(tmp_path, prompts={"default": " \n"}), "the prompt is empty")


def test_two_variants_of_one_name_are_refused(tmp_path):
    refuses(make_folder(tmp_path, task='[[variant]]\nname = "default"\n' * 2), "'default' is there twice")


def test_variant_without_a_name_is_refused(tmp_path):
    refuses(make_folder(tmp_path, task='[[variant]]\ntitle = "Default"'), "[[variant]] 1 name: slug is ''")


def test_prompt_file_whose_name_is_no_slug_is_refused(tmp_path):
    refuses(make_folder(tmp_path, prompts={"My prompt": "Write."}), "slug is 'My prompt'")


def test_folder_without_a_rubric_is_refused(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "rubric.toml").unlink()
    refuses(folder, "rubric.toml: No such file")


def test_hash_of_a_variant_is_that_of_its_prompt_alone(tmp_path):
    table = '[[variant]]\nname = "default"\ntitle = "Other title"'
    (plain,) = load_task(make_folder(tmp_path, "a")).variants
    (titled,) = load_task(make_folder(tmp_path, "b", task=table)).variants
    (other,) = load_task(make_folder(tmp_path, "c", prompts={"default": "Write an essay!"})).variants
    assert plain.sha256 == titled.sha256 == "38ca06581e8d2fc4eeccd11cc9dc94aa069de8681dbe0310df1bab9887a8a8cb"
    assert plain.sha256 != other.sha256


def test_a_task_cannot_be_changed(tmp_path):
    task = load_task(make_folder(tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.title = "Other"


def test_tasks_of_several_folders_come_in_order_of_slug(tmp_path):
    make_folder(tmp_path / "one", "zeta")
    make_folder(tmp_path / "one", "beta", task='slug = "mu"')
    make_folder(tmp_path / "two", "alpha")
    (tmp_path / "two" / "notes").mkdir()
    assert [task.slug for task in load_tasks(tmp_path / "one", tmp_path / "two")] == ["alpha", "mu", "zeta"]


def test_two_tasks_of_one_slug_are_refused(tmp_path):
    make_folder(tmp_path / "one", "essay")
    make_folder(tmp_path / "two", "essay")
    with pytest.raises(TaskError, match=r"slug 'essay' is taken by .*one.essay"):
        load_tasks(tmp_path / "one", tmp_path / "two")


def test_folder_of_tasks_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TaskError, match="nowhere: no such folder of tasks"):
        load_tasks(tmp_path / "nowhere")
