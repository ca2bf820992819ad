"""What a good file becomes."""

import pytest
from django.core.management import call_command

from reviewapp.interchange.importer import import_file
from reviewapp.models import CriterionScore, Grade, Grader, Output, Run, Task
from tests.interchange.files import counts, grade, jsonl, line, rubric_file
from tests.make import make_task, make_user

pytestmark = pytest.mark.django_db


def imported(tmp_path, *lines, **options):
    return import_file(jsonl(tmp_path, *lines), rubric_file(tmp_path), **options)


def test_the_command_imports_a_file_and_says_what_it_did(tmp_path, capsys):
    path = jsonl(tmp_path, line("a", grades=[grade()]), line("b"))
    call_command("import_outputs", str(path), rubric=str(rubric_file(tmp_path)))
    said = capsys.readouterr().out
    assert "outputs: 2 new, 0 new versions, 0 unchanged" in said
    assert "grades: 1 new, 0 unchanged" in said
    assert "tasks: summaries new" in said


def test_every_field_of_a_line_is_kept(tmp_path):
    message = {"role": "assistant", "content": "hm", "thinking": "…", "tool_calls": [{"id": 1}]}
    transcript = [message, {"role": "tool", "name": "search", "content": ""}]
    full = line(
        prompt="Summarise.", variant="terse", model="M1", content="Text ü", format="markdown", reference="The article.",
        transcript=transcript, metadata={"seed": 7, "deep": [{"a": None}]},
    )  # fmt: skip
    imported(tmp_path, full)
    output = Output.objects.select_related("body", "prompt", "variant").get()
    assert (output.external_id, output.version, output.is_latest, output.length) == ("doc-1/M1", 1, True, 6)
    assert (output.prompt.text, output.variant.name, output.model, output.format) == ("Summarise.", "terse", "M1", "markdown")
    assert (output.body.content, output.body.reference, output.body.transcript) == ("Text ü", "The article.", transcript)
    assert output.metadata == {"seed": 7, "deep": [{"a": None}]}


def test_a_line_of_three_fields_is_enough(tmp_path):
    imported(tmp_path, line())
    output = Output.objects.select_related("variant").get()
    assert (output.variant.name, output.prompt, output.model, output.format) == ("default", None, "", "text")


def test_overall_left_out_is_the_weighted_mean_of_the_numeric_criteria(tmp_path):
    scores = {"coherence": {"score": 4, "rationale": "why"}, "fluency": {"score": 2}, "verdict": {"score": "tie"}, "grounded": {"score": 1}}
    imported(tmp_path, line(grades=[grade(criteria=scores)]))
    row = Grade.objects.get()
    assert (row.overall, row.passed, row.mode) == (3.5, True, "automatic")  # (3*4 + 1*2) / 4
    found = {s.criterion.key: (s.score, s.value, s.passed, s.rationale) for s in CriterionScore.objects.select_related("criterion")}
    assert found == {
        "coherence": (4, "", None, "why"), "fluency": (2, "", None, ""), "verdict": (None, "tie", None, ""), "grounded": (1, "", True, ""),
    }  # fmt: skip


def test_overall_and_passed_given_are_kept(tmp_path):
    imported(tmp_path, line(grades=[grade(overall=5, passed=False)]))
    assert Grade.objects.values_list("overall", "passed").get() == (5, False)


@pytest.mark.parametrize(
    ("criteria", "reason"),
    [({}, "not_given"), ({"coherence": {"score": None}}, "not_given"), ({"verdict": {"score": "tie"}}, "not_numeric")],
)
def test_a_grade_without_a_number_says_why(tmp_path, criteria, reason):
    imported(tmp_path, line(grades=[grade(criteria=criteria)]))
    assert Grade.objects.values_list("overall", "unscored_reason").get() == (None, reason)


def test_a_human_grade_without_mode_is_blind_and_without_rater_is_the_graders(tmp_path):
    expert = grade(kind="human", grader="expert")
    imported(tmp_path, line(grades=[expert, {**expert, "rater": "e1", "mode": "assisted"}]))
    assert list(Grade.objects.values_list("mode", "rater_name")) == [("blind", "expert"), ("assisted", "e1")]


def test_the_label_is_there_at_once(tmp_path):
    humans = [grade(kind="human", grader="expert", rater=f"e{i}", overall=o, criteria={}) for i, o in enumerate([2, 3])]
    imported(tmp_path, line(grades=[grade(overall=4), *humans]))
    output = Output.objects.get()
    assert (output.judge_score, output.human_score, output.human_count, output.disagreement) == (4, 2.5, 2, 1.5)
    assert (output.label_source, output.label_score, output.label_state) == ("human", 2.5, "labelled")


def test_the_first_judge_seen_becomes_the_tasks_primary_grader(tmp_path):
    imported(tmp_path, line(grades=[grade(kind="human", grader="expert"), grade(grader="geval"), grade(grader="other", overall=1)]))
    assert Task.objects.get().primary_grader == "geval"
    assert Output.objects.get().judge_score == 3.5


def test_outputs_of_one_prompt_share_it(tmp_path):
    imported(tmp_path, line("a", prompt="P"), line("b", prompt="P"), line("c", prompt="Q"))
    assert len(set(Output.objects.values_list("prompt_id", flat=True))) == 2


def test_lines_of_a_known_task_need_no_rubric_file(tmp_path):
    task = make_task("ideas")
    given = line(task="ideas", grades=[grade(criteria={"viability": {"score": 6}})])
    import_file(jsonl(tmp_path, given))
    output = Output.objects.select_related("prompt").get()
    assert (output.task_id, output.format, output.variant.prompt) == (task.pk, "markdown", "The prompt of ideas.")
    assert output.prompt.text == "The prompt of ideas."


def test_the_import_is_a_run_by_the_person_who_made_it(tmp_path):
    user = make_user("root", role="admin")
    report = imported(tmp_path, line(), user=user)
    run = Run.objects.get()
    assert (run.kind, run.title, run.created_by, run.pk) == ("import", "outputs.jsonl", user, report.run_id)
    assert Output.objects.get().run_id == run.pk


def test_samples_are_marked_as_samples(tmp_path):
    imported(tmp_path, line(grades=[grade()]), sample=True)
    assert Output.objects.get().is_sample
    assert Grader.objects.get().is_sample
    assert Run.objects.get().kind == "sample"


def test_a_dry_run_counts_and_writes_nothing(tmp_path):
    before = counts()
    report = imported(tmp_path, line("a", grades=[grade()]), line("b"), line("a", grades=[grade(), grade(grader="x")]), dry_run=True)
    assert (report.outputs_new, report.grades_new, report.grades_unchanged, report.tasks_new) == (2, 2, 1, ["summaries"])
    assert counts() == before


def test_blank_lines_are_skipped_and_keep_their_number(tmp_path):
    report = imported(tmp_path, b"", line("a"), b"   \t\r", line("b"))
    assert (report.lines, report.outputs_new) == (2, 2)


def test_the_same_output_on_two_lines_has_the_grades_of_both(tmp_path):
    report = imported(tmp_path, line(grades=[grade()]), line(grades=[grade(grader="other")]))
    assert (report.outputs_new, report.grades_new) == (1, 2)
    assert Output.objects.get().grades.count() == 2


def test_content_may_be_missing_for_a_reason(tmp_path):
    imported(tmp_path, line(content="", content_missing="the study publishes scores only"))
    assert Output.objects.get().content_missing == "the study publishes scores only"


def test_a_rubric_file_that_no_line_needs_makes_no_task(tmp_path):
    make_task("ideas")
    report = imported(tmp_path, line(task="ideas"))
    assert not Task.objects.filter(slug="summaries").exists()
    assert "no line is of it" in report.as_text()


def test_progress_is_told_to_the_end(tmp_path):
    told = []
    imported(tmp_path, line(), on_progress=lambda *step: told.append(step))
    size = (tmp_path / "outputs.jsonl").stat().st_size
    assert told == [("Checking", size, size), ("Writing", size, size)]


def test_ids_of_later_rows_go_on_after_the_imported_ones(tmp_path):
    imported(tmp_path, line(grades=[grade()]))
    newest = Grade.objects.get()
    later = Grade.objects.create(output=newest.output, grader=newest.grader, rubric=newest.rubric, mode="automatic", overall=1, key="later")
    assert later.pk > newest.pk
