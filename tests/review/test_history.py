"""History shows every grade, what it takes the place of, and what was taken back; evidence shows the graders' logs."""

from __future__ import annotations

import pytest
from django.urls import reverse

from reviewapp.models import Draft, Grade, Grader, Retraction
from tests.conftest import signed_in
from tests.make import code_rubric, make_grader, make_judge_grade, make_output, make_task, make_user
from tests.review.reviewing import IDEA, page, post, submit

JUDGED = {"viability": 8.0, "upside": 7.5, "success": 6.0, "novelty": 5.5}


@pytest.fixture
def output(db):
    output = make_output()
    make_judge_grade(output, JUDGED)
    return output


def undo(client, grade, **headers):
    return client.post(reverse("review_undo"), {"grade": grade.pk}, headers=headers)


def test_all_grades_are_listed_newest_first_with_what_they_supersede(as_reviewer, output):
    submit(as_reviewer, output)
    post(as_reviewer, "mode", output, mode="override", judge=output.grades.first().pk)
    submit(as_reviewer, output, {"success": "3"}, note_success="needs an unsolved part")
    html = page(as_reviewer, output, "?tab=history")
    judge, blind, override = output.grades.all()
    places = [html.index(f'id="grade-{grade.pk}"') for grade in (override, blind, judge)]
    assert places == sorted(places)
    assert f"grade {judge.pk} by judge v1" in html
    assert "needs an unsolved part" in html


def test_undo_takes_the_newest_grade_back_and_gives_the_answers_back(as_reviewer, reviewer, output):
    submit(as_reviewer, output, note="too fast", active_s="30")
    grade = output.grades.get(rater=reviewer)
    assert undo(as_reviewer, grade).url == reverse("review", args=[output.pk])
    draft = Draft.objects.get()
    assert (draft.answers["novelty"]["score"], draft.note, draft.active_ms) == (7, "too fast", 30_000)
    output.refresh_from_db()
    assert (output.human_count, output.human_score) == (0, None)
    assert Grade.objects.filter(pk=grade.pk).exists()


def test_a_grade_taken_back_is_struck_through_with_who_and_when(as_reviewer, reviewer, output):
    submit(as_reviewer, output)
    undo(as_reviewer, output.grades.get(rater=reviewer))
    html = page(as_reviewer, output, "?tab=history")
    assert 'class="event retracted"' in html
    assert "Taken back by ana on" in html


def test_undo_twice_takes_back_one_grade(as_reviewer, reviewer, output):
    other = make_output()
    submit(as_reviewer, output)
    submit(as_reviewer, other)
    newest = other.grades.get(rater=reviewer)
    replies = [undo(as_reviewer, newest) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [302, 302]
    assert Retraction.objects.count() == 1


def test_only_ones_own_newest_grade_can_be_undone(as_reviewer, reviewer, output):
    submit(as_reviewer, output)
    submit(as_reviewer, make_output())
    older = output.grades.get(rater=reviewer)
    assert undo(as_reviewer, older).status_code == 409
    assert undo(signed_in(make_user("bo")), older).status_code == 404
    assert as_reviewer.post(reverse("review_undo"), {"grade": "x"}).status_code == 404
    assert as_reviewer.get(reverse("review_undo")).status_code == 405
    assert not Retraction.objects.exists()


def test_an_undone_override_comes_back_as_an_override(as_reviewer, output):
    judge = output.grades.first()
    submit(as_reviewer, output)
    post(as_reviewer, "mode", output, mode="override", judge=judge.pk)
    submit(as_reviewer, output, {"success": "3"}, note_success="why")
    undo(as_reviewer, output.grades.get(mode="override"))
    assert (Draft.objects.get().mode, Draft.objects.get().supersedes) == ("override", judge)
    submit(as_reviewer, output, {"success": "2"}, note_success="why")
    assert output.grades.filter(mode="override").count() == 2


def graded_code(backend: str, gpu: dict[str, float] | None = None, **told):
    output = make_output(make_task("memory", code_rubric(), output_format="python", primary_grader="memory"), "x = 1")
    grader = make_grader("memory", kind=Grader.Kind.CODE)
    scores = {"memory_class": 10.0, "surprise_gate": 0.0, "learnable_decay": None}
    sandbox = {"backend": backend, "network": False, **(gpu or {})}
    log = {"stdout": "shape \u202e(2, 8)", "stderr": "<warn>", "error": "ValueError: odd", "sandbox": sandbox, "duration_s": 2.1}
    make_judge_grade(output, scores, grader, runs=False, peak_memory_mb=412.0, failure_category="generic_gate", **log, **told)
    return output


def test_the_run_log_tells_what_the_sandbox_saw(as_viewer):
    html = page(as_viewer, graded_code("bwrap"), "?tab=evidence")
    for told in ("ValueError: odd", "&lt;warn&gt;", "U+202E", "412 MB", "2.1 s", "generic gate", "no, it failed", "bwrap"):
        assert told in html
    assert "Run without a sandbox" not in html


def test_a_run_without_a_sandbox_says_so_loudly(as_viewer):
    assert "Run without a sandbox." in page(as_viewer, graded_code("process"), "?tab=evidence")


def test_the_run_log_is_hidden_from_a_blind_reviewer(as_reviewer):
    output = graded_code("bwrap")
    assert not any("ValueError" in page(as_reviewer, output, f"?tab={tab}") for tab in ("output", "evidence", "history"))


def test_an_older_version_points_at_the_newer_one(as_reviewer, output):
    output.is_latest = False
    output.save()
    newer = make_output(output.task, external_id=output.external_id, version=2)
    html = page(as_reviewer, output)
    assert "Version 2 is newer" in html
    assert reverse("review", args=[newer.pk]) in html


TRANSCRIPT = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm <b>"}, {"type": "tool_use", "name": "web_search", "input": {"query": "memory"}}],
    },
    {"role": "tool", "name": "web_search", "content": "1. A paper"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "run_code", "arguments": '{"x": 1}'}}]},
    {"role": "assistant", "content": "Done."},
    "not a message",
]


def test_the_transcript_folds_tools_and_marks_thinking(as_reviewer):
    html = page(as_reviewer, make_output(transcript=TRANSCRIPT), "?tab=transcript")
    assert html.count("<details>") == 4
    for told in ("hm &lt;b&gt;", "Calls web_search", "web_search answers", "Calls run_code", "Done.", "6 entries"):
        assert told in html


def test_without_a_transcript_the_tab_says_what_is_missing(as_reviewer, output):
    assert "No transcript" in page(as_reviewer, output, "?tab=transcript")


def test_the_same_grade_is_never_made_from_an_undone_form(as_reviewer, reviewer, output):
    submit(as_reviewer, output)
    undo(as_reviewer, output.grades.get(rater=reviewer))
    submit(as_reviewer, output, IDEA)
    assert output.grades.filter(rater=reviewer).count() == 2
    assert output.grades.filter(rater=reviewer, retraction__isnull=True).count() == 1


def test_undo_after_a_skip_takes_the_skip_back_and_returns(as_reviewer, reviewer, output):
    other = make_output()
    submit(as_reviewer, output)
    post(as_reviewer, "skip", other, reason="not my field")
    html = page(as_reviewer, output)
    assert f"undo skip of output {other.pk}" in html
    skip = other.skips.get()
    assert signed_in(make_user("bo")).post(reverse("review_undo"), {"skip": skip.pk}).status_code == 404
    response = as_reviewer.post(reverse("review_undo"), {"skip": skip.pk})
    assert response.url == reverse("review", args=[other.pk])
    assert not other.skips.exists()
    assert not Retraction.objects.exists()


def test_undo_asks_first_when_the_grade_is_of_another_output(as_reviewer, reviewer, output):
    other = make_output()
    submit(as_reviewer, output)
    assert "Take back your grade of output" not in page(as_reviewer, output)
    html = page(as_reviewer, other)
    assert f"Take back your grade of output {output.pk}, made " in html
    assert 'data-key="z" popovertarget="undo"' in html
    assert 'data-key="z u"' not in html


COURSE = {"state_norm": [0.5, 1.25, 2.0], "write_gate": [0.5, 0.75, 0.25]}


def test_the_memory_of_a_run_is_drawn_over_its_tokens_and_told_in_a_table(as_viewer):
    output = graded_code("bwrap", course=COURSE)
    html = page(as_viewer, output, "?tab=evidence")
    assert 'points="0.00,17.25 50.00,9.38 100.00,1.50"' in html  # up to the largest size
    assert 'points="0.00,12.00 50.00,6.75 100.00,17.25"' in html  # a gate on 0 to 1
    assert '<td class="num">2</td><td class="num">1.25</td><td class="num">0.75</td>' in html


def test_a_runs_gpu_memory_stands_beside_the_starters(as_viewer):
    html = page(as_viewer, graded_code("bwrap", gpu={"gpu_peak_mb": 36.2, "starter_gpu_peak_mb": 288.4}), "?tab=evidence")
    assert "36 MB at its peak; the starter needs 288 MB" in html


GPU_RUN = {"device": "NVIDIA H100", "runs": True, "error": "", "peak_mb": 161.4, "starter_peak_mb": 402.9, "wall_s": 9.2}


def test_what_a_real_gpu_said_stands_beside_the_pretended_one(as_viewer):
    html = page(as_viewer, graded_code("bwrap", gpu={"gpu_run": GPU_RUN}), "?tab=evidence")
    assert "NVIDIA H100: it ran to its end in 9 s" in html and "161 MB at its peak; the starter needs 403 MB" in html
    crash = {**GPU_RUN, "runs": False, "error": "RuntimeError: <b>no kernel</b> (line 3)"}
    html = page(as_viewer, graded_code("bwrap", gpu={"gpu_run": crash}), "?tab=evidence")
    assert "NVIDIA H100: RuntimeError: &lt;b&gt;no kernel&lt;/b&gt; (line 3)" in html


def test_a_run_that_told_nothing_of_its_memory_has_no_plot(as_viewer):
    html = page(as_viewer, graded_code("bwrap", course={"state_norm": [1.0], "other": [1.0, 2.0]}), "?tab=evidence")
    assert "Memory over the tokens" not in html
