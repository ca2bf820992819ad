"""With the judge visible: agree, override criterion by criterion with a reason, and never over each other unseen."""

from __future__ import annotations

import pytest

from reviewapp.models import Draft, Grade, Grader
from tests.conftest import signed_in
from tests.make import code_rubric, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.review.reviewing import IDEA, answers, field, page, post, submit

JUDGED = {"viability": 8.0, "upside": 7.5, "success": 6.0, "novelty": 5.5}


@pytest.fixture
def output(db):
    return make_output()


@pytest.fixture
def judge(output) -> Grade:
    return make_judge_grade(output, JUDGED)


@pytest.fixture
def seen(as_reviewer, output, judge):
    """The reviewer's client, with the judge visible after a blind grade."""
    submit(as_reviewer, output)
    return as_reviewer


def begin_override(client, output, judge):
    return post(client, "mode", output, mode="override", judge=judge.pk)


def test_an_override_takes_the_judges_scores_but_for_those_overridden(seen, output, judge, reviewer):
    begin_override(seen, output, judge)
    response = submit(seen, output, {"success": "3"}, note_success="needs an unsolved part")
    assert response.status_code == 302
    grade = output.grades.latest("pk")
    assert (grade.mode, grade.supersedes, grade.rater) == ("override", judge, reviewer)
    rows = grade.criterion_scores.values_list("criterion__key", "score", "rationale")
    assert list(rows) == [("viability", 8, ""), ("upside", 7.5, ""), ("success", 3, "needs an unsolved part"), ("novelty", 5.5, "")]
    assert grade.overall == 6.0  # .30 x 8 + .25 x 7.5 + .30 x 3 + .15 x 5.5
    assert Grade.objects.filter(pk=judge.pk, overall=judge.overall).exists()


def test_an_override_needs_a_reason_for_each_change(seen, output, judge):
    begin_override(seen, output, judge)
    response = submit(seen, output, {"success": "3", "novelty": "2"}, note_novelty="known since 2019")
    assert response.status_code == 422
    assert "No reason: Success." in response.content.decode()


def test_an_override_that_changes_nothing_is_refused(seen, output, judge):
    begin_override(seen, output, judge)
    response = submit(seen, output, {}, note_success="fine as it is")
    assert response.status_code == 422
    assert "Nothing differs from the judge" in response.content.decode()


def test_a_crash_that_the_grader_saw_stays_a_fail_whatever_is_overridden(as_reviewer):
    output = make_output(make_task("memory", code_rubric(), output_format="python", primary_grader="memory"), "x = 1")
    scores = {"memory_class": 10.0, "surprise_gate": 10.0, "learnable_decay": 0.0}
    grade = make_judge_grade(output, scores, make_grader("memory", kind=Grader.Kind.CODE), runs=False)
    submit(as_reviewer, output, dict.fromkeys(scores, "pass"))
    begin_override(as_reviewer, output, grade)
    submit(as_reviewer, output, {"learnable_decay": "pass"}, note_learnable_decay="it is a parameter")
    override = output.grades.latest("pk")
    assert (override.mode, override.runs, override.passed) == ("override", False, False)


def test_agree_with_all_is_an_assisted_grade_equal_to_the_judges(seen, output, judge):
    html = page(seen, output)
    form = {"base": field(html, "base"), "seen": field(html, "seen"), "judge": judge.pk}
    replies = [post(seen, "agree", output, **form) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [302, 302]
    grade = output.grades.filter(mode="assisted").get()
    assert grade.overall == judge.overall
    assert grade.supersedes.mode == "blind"


def test_agreeing_with_a_judge_that_left_something_open_asks_for_it(seen, output):
    half = make_judge_grade(output, {**JUDGED, "novelty": None})
    response = post(seen, "agree", output, judge=half.pk)
    assert response.status_code == 422
    assert "The judge left something open. Not answered: Novelty." in response.content.decode()
    assert Draft.objects.get().answers["viability"] == {"score": 8.0}


def test_a_change_after_the_reveal_is_a_new_assisted_grade_and_the_blind_one_stays(seen, output, reviewer):
    post(seen, "mode", output, mode="assisted")
    assert 'value="7" checked' in page(seen, output)
    submit(seen, output, {**IDEA, "novelty": "5"})
    blind, assisted = output.grades.filter(rater=reviewer)
    assert (blind.mode, blind.overall) == ("blind", 6.05)
    assert (assisted.mode, assisted.supersedes) == ("assisted", blind)


def test_leaving_a_change_keeps_the_grade_as_it_was(seen, output):
    post(seen, "mode", output, mode="assisted", **answers({"novelty": "1"}))
    post(seen, "mode", output, mode="leave")
    assert not Draft.objects.exists()
    assert output.grades.count() == 2


@pytest.mark.parametrize("htmx", [True, False])
def test_the_second_of_two_stale_overrides_is_told_what_changed_and_asked_again(seen, output, judge, htmx):
    begin_override(seen, output, judge)
    html = page(seen, output)
    other = signed_in(make_user("bo"))
    submit(other, output)
    begin_override(other, output, judge)
    submit(other, output, {"upside": "2"}, note_upside="nobody waits for it", note="bo-was-here")
    form = {"base": field(html, "base"), "seen": field(html, "seen"), "answer_success": "3", "note_success": "too many parts"}
    refused = post(seen, "submit", output, htmx=htmx, **form)
    assert refused.status_code == 409
    assert "bo, override: " in refused.content.decode()
    assert "bo-was-here" in refused.content.decode()
    again = field(refused.content.decode(), "seen")
    assert post(seen, "submit", output, **{**form, "seen": again}).status_code == 302
    assert output.grades.filter(mode="override").count() == 2


def test_agreeing_with_a_stale_page_is_asked_again_too(seen, output, judge):
    html = page(seen, output)
    newer = make_judge_grade(output, dict.fromkeys(JUDGED, 1.0))
    response = post(seen, "agree", output, base=field(html, "base"), seen=field(html, "seen"), judge=judge.pk)
    assert response.status_code == 409
    assert "judge v1, automatic" in response.content.decode()
    assert newer.pk == int(field(response.content.decode(), "seen"))


def test_a_blind_reviewer_is_not_told_of_newer_grades(as_reviewer, output, judge):
    html = page(as_reviewer, output)
    make_judge_grade(output, dict.fromkeys(JUDGED, 1.0))
    response = post(as_reviewer, "submit", output, base=field(html, "base"), seen=field(html, "seen"), **answers(IDEA))
    assert response.status_code == 302


def test_overriding_is_not_for_who_has_not_seen_the_judge(as_reviewer, output, judge):
    assert begin_override(as_reviewer, output, judge).status_code == 422
    assert not Draft.objects.exists()


def test_an_unknown_mode_is_refused_with_what_is_allowed(as_reviewer, output):
    response = post(as_reviewer, "mode", output, mode="expert")
    assert response.status_code == 422
    assert "allowed: assisted, override, leave" in response.content.decode()


def test_several_judges_stand_side_by_side_with_the_samples_marked(seen, output):
    make_judge_grade(output, dict.fromkeys(JUDGED, 2.0), make_grader("second-judge", is_sample=True))
    html = page(seen, output)
    assert "second-judge v1" in html
    assert html.index("judge v1") < html.index("second-judge v1")
    assert '<span class="mark sample">sample</span>' in html


def test_only_the_newest_grade_of_a_judge_is_shown_beside_the_reviewers(seen, output):
    make_judge_grade(output, dict.fromkeys(JUDGED, 9.5))
    html = page(seen, output)
    assert "9.50" in html
    assert "6.90" not in html


def test_a_quote_of_the_judge_is_marked_and_linked_and_one_made_up_is_called_out(as_reviewer, reviewer):
    from graders.grade import CriterionScore, Evidence, grade_of
    from reviewapp.catalog.sync import spec_of
    from reviewapp.grading import record_grader_grade

    output = make_output(content="# Idea\n\nWe **measured** the failure in ten systems.")
    quotes = (Evidence("we measured the failure", "quote"), Evidence("a line that nobody wrote", "quote"))
    rows = [CriterionScore(key, None, 5.0, 1, "Because.", quotes if key == "viability" else ()) for key in IDEA]
    record_grader_grade(output, make_grader(), grade_of("ideas", spec_of(output.task).rubric, rows, runs=None), attempt=1)
    assert "<mark" not in page(as_reviewer, output)
    submit(as_reviewer, output)
    html = page(as_reviewer, output)
    row = Grade.objects.get(mode="automatic").criterion_scores.get(criterion__key="viability")
    assert f'<mark class="judge" id="e-{row.pk}-0">We </mark>' in html
    assert f'<a href="#e-{row.pk}-0" data-key="e"' in html
    assert "not found in the output" in html


def test_other_reviewers_grades_show_after_the_reveal(seen, output):
    make_human_grade(output, make_user("bo"), dict.fromkeys(JUDGED, 4))
    assert "Other reviewers" in page(seen, output)


def test_overriding_keeps_ones_own_scores_and_notes_and_leaving_gives_them_back(as_reviewer, output, judge):
    post(as_reviewer, "mode", output, mode="assisted", **answers({"viability": "2", "novelty": "1"}), note_novelty="seen before")
    html = page(as_reviewer, output)
    form = {"base": field(html, "base"), "seen": field(html, "seen"), "judge": field(html, "judge")}
    post(as_reviewer, "mode", output, mode="override", note="unsure of it", note_upside="too high", **form)
    html = page(as_reviewer, output)
    assert 'name="answer.viability" value="8" checked' in html
    assert "seen before</textarea>" in html
    post(as_reviewer, "mode", output, mode="leave", answer_success="3", note_success="one part is unsolved")
    html = page(as_reviewer, output)
    assert 'name="answer.viability" value="2" checked' in html
    assert 'name="answer.novelty" value="1" checked' in html
    assert html.count(" checked") == 2
    for words in ("seen before", "too high", "one part is unsolved", "unsure of it"):
        assert f"{words}</textarea>" in html
    begin_override(as_reviewer, output, judge)
    assert 'name="answer.success" value="3" checked' in page(as_reviewer, output)


def test_overriding_while_changing_ones_grade_goes_back_to_the_change(seen, output, judge):
    post(seen, "mode", output, mode="assisted")
    post(seen, "draft", output, answer_novelty="1")
    begin_override(seen, output, judge)
    post(seen, "mode", output, mode="leave")
    assert 'name="answer.novelty" value="1" checked' in page(seen, output)
    submit(seen, output, {})
    assert output.grades.latest("pk").supersedes.mode == "blind"


def test_a_note_on_what_is_not_overridden_is_kept_with_the_grade(seen, output, judge):
    begin_override(seen, output, judge)
    submit(seen, output, {"success": "3"}, note_success="needs an unsolved part", note_upside="agreed")
    assert output.grades.latest("pk").criterion_scores.get(criterion__key="upside").rationale == "agreed"


def test_agreeing_keeps_the_notes_that_were_written(as_reviewer, output, judge):
    post(as_reviewer, "mode", output, mode="assisted")
    post(as_reviewer, "agree", output, judge=judge.pk, note_novelty="as I found", note="all of it")
    grade = output.grades.latest("pk")
    assert (grade.overall, grade.rationale) == (judge.overall, "all of it")
    assert grade.criterion_scores.get(criterion__key="novelty").rationale == "as I found"


@pytest.mark.parametrize("htmx", [True, False])
def test_a_refused_override_goes_to_the_first_reason_that_is_missing(seen, output, judge, htmx):
    begin_override(seen, output, judge)
    response = post(seen, "submit", output, htmx=htmx, **answers({"success": "3", "novelty": "2"}))
    assert 'id="n-success" name="note.success" autofocus' in response.content.decode()


def test_counted_passes_stand_side_by_side_as_counts(as_reviewer):
    output = make_output(make_task("memory", code_rubric(), output_format="python", primary_grader="memory"), "x = 1")
    scores = {"memory_class": 10.0, "surprise_gate": 10.0, "learnable_decay": 10.0}
    make_judge_grade(output, scores, make_grader("memory", kind=Grader.Kind.CODE), runs=True)
    submit(as_reviewer, output, {**dict.fromkeys(scores, "pass"), "surprise_gate": "unsure"})
    html = page(as_reviewer, output)
    assert '<span class="overall num">2 of 3</span>' in html
    assert '<span class="overall num">3 of 3</span>' in html
    assert 'you <span class="num">−1</span>' in html
    history = page(as_reviewer, output, "?tab=history")
    assert history.count('event-overall">2 of 3<') == history.count('event-overall">3 of 3<') == 1
    assert "10.00" not in html + history


def test_after_a_grading_the_panel_is_drawn_anew_and_what_was_typed_is_saved(as_reviewer, output):
    output.task.graders = ["judge"]
    output.task.save()
    post(as_reviewer, "mode", output, mode="assisted")
    make_judge_grade(output, JUDGED, rationales={"novelty": "New on the page."})
    response = post(as_reviewer, "draft", output, htmx=True, redraw="1", note_novelty="half a word")
    html = response.content.decode()
    assert html.strip().startswith('<section id="rubric"')
    assert "New on the page." in html
    assert "half a word</textarea>" in html
