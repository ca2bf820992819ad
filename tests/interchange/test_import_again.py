"""Importing twice, importing more, importing something else under the same id."""

import pytest

from reviewapp.interchange.importer import import_file
from reviewapp.models import Grade, Output, Rubric, Task
from tests.interchange.files import RUBRIC, counts, grade, jsonl, line, rubric_file
from tests.make import make_human_grade, make_user

pytestmark = pytest.mark.django_db


def imported(tmp_path, *lines):
    return import_file(jsonl(tmp_path, *lines), rubric_file(tmp_path))


def test_the_same_file_again_changes_nothing(tmp_path):
    lines = [line(f"{i}", prompt="P", grades=[grade(), grade(kind="human", rater="e1")]) for i in range(5)]
    imported(tmp_path, *lines)
    before, revision = counts(), Task.objects.get().revision
    report = imported(tmp_path, *lines)
    assert (report.outputs_new, report.outputs_unchanged, report.grades_new, report.grades_unchanged) == (0, 5, 0, 10)
    assert counts() == before
    assert Task.objects.get().revision == revision
    assert not report.changes_something


def test_other_content_is_a_new_version_and_is_reported(tmp_path):
    imported(tmp_path, line(content="One.", grades=[grade()]))
    report = imported(tmp_path, line(content="Two.", grades=[grade()]))
    assert (report.outputs_new_version, report.new_versions) == (1, ["doc-1/M1"])
    rows = Output.objects.order_by("version").values_list("version", "is_latest", "body__content")
    assert list(rows) == [(1, False, "One."), (2, True, "Two.")]
    assert Output.objects.get(is_latest=True).grades.count() == 1


@pytest.mark.parametrize("field", ["prompt", "reference", "model", "variant"])
def test_what_makes_a_new_version(tmp_path, field):
    imported(tmp_path, line())
    assert imported(tmp_path, line(**{field: "other"})).outputs_new_version == 1


def test_other_metadata_alone_is_no_new_version(tmp_path):
    imported(tmp_path, line(metadata={"a": 1}))
    assert imported(tmp_path, line(metadata={"a": 2})).outputs_unchanged == 1
    assert Output.objects.get().metadata == {"a": 1}


def test_more_grades_of_the_same_output_are_added_and_relabel_it(tmp_path):
    imported(tmp_path, line(grades=[grade(overall=4)]))
    report = imported(tmp_path, line(grades=[grade(overall=4), grade(kind="human", grader="expert", overall=2)]))
    assert (report.outputs_unchanged, report.grades_new, report.grades_unchanged, report.run_id) == (1, 1, 1, None)
    output = Output.objects.get()
    assert (output.judge_score, output.human_score, output.disagreement) == (4, 2, 2)


def test_whole_numbers_and_defaults_written_out_are_the_same_grade(tmp_path):
    imported(tmp_path, line(grades=[grade(criteria={"fluency": {"score": 3}})]))
    again = grade(version="1", rationale="", overall=None, criteria={"fluency": {"score": 3.0, "rationale": ""}})
    assert imported(tmp_path, line(grades=[again])).grades_new == 0


def test_grades_made_here_stay_when_the_file_comes_again(tmp_path):
    imported(tmp_path, line(grades=[grade()]))
    make_human_grade(Output.objects.get(), make_user("ana"), {"coherence": 1, "fluency": 1})
    imported(tmp_path, line(grades=[grade()]))
    assert (Grade.objects.count(), Output.objects.get().human_score) == (2, 1)


def test_another_rubric_is_a_new_version_and_old_grades_keep_theirs(tmp_path):
    imported(tmp_path, line("a", grades=[grade()]))
    changed = rubric_file(tmp_path, RUBRIC.replace("pass_threshold = 3.5", "pass_threshold = 4.5"))
    report = import_file(jsonl(tmp_path, line("b", grades=[grade()])), changed)
    assert "summaries: rubric v2" in report.as_text()
    assert Rubric.objects.count() == 2
    assert list(Grade.objects.order_by("id").values_list("rubric__version", "passed")) == [(1, True), (2, False)]


def test_a_rubric_file_leaves_the_rest_of_a_task_as_it_is(tmp_path):
    imported(tmp_path, line())
    Task.objects.update(tools=["web_search"], primary_grader="geval", output_format="markdown", band_low=0.2)
    imported(tmp_path, line("b"))
    task = Task.objects.get()
    assert (task.tools, task.primary_grader, task.output_format, task.band_low) == (["web_search"], "geval", "markdown", 0.2)
