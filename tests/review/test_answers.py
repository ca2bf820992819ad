"""Answering: the draft is saved at each answer, and the score that stands is the server's."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

import tasks.task as spec
from reviewapp.models import Draft, Grade
from tests.conftest import signed_in
from tests.make import code_rubric, make_output, make_task, make_user
from tests.review.reviewing import IDEA, answers, page, post, submit

CODE = {"memory_class": "pass", "surprise_gate": "unsure", "learnable_decay": "pass"}


@pytest.fixture
def output(db):
    return make_output(content="# An idea\n\nThe reward is wrong in places.")


def kinds_output():
    rubric = spec.Rubric(
        criteria=(
            spec.Criterion("stars", "Stars", scale=(1, 5)),
            spec.Criterion("winner", "Winner", kind="categorical", values=("model_a", "tie", "model_b")),
            spec.Criterion("percent", "Percent", scale=(0, 100)),
        ),
        scale=(0, 100),
    )
    return make_output(make_task("pairs", rubric))


def test_the_overall_follows_each_answer_and_is_6_05(as_reviewer, output):
    last = [post(as_reviewer, "draft", output, htmx=True, **{f"answer_{key}": value}) for key, value in IDEA.items()][-1]
    html = last.content.decode()
    assert html.strip().startswith('<div id="total"')
    assert ">6.05<" in html
    assert ">Fail<" in html
    assert "all answered" in html


def test_until_all_is_answered_it_is_neither_pass_nor_fail(as_reviewer, output):
    html = post(as_reviewer, "draft", output, htmx=True, answer_viability="9").content.decode()
    assert ">9.00<" in html
    assert "so far" in html
    assert "3 to answer" in html
    assert ">Pass<" not in html


def test_half_a_point_comes_on_top_and_never_over_the_scale(as_reviewer, output):
    post(as_reviewer, "draft", output, answer_viability="6", half_viability="1", answer_upside="10", half_upside="1")
    assert Draft.objects.get().answers == {"viability": {"score": 6.5}, "upside": {"score": 10.0}}


def test_a_second_tab_shows_the_same_draft(as_reviewer, output):
    post(as_reviewer, "draft", output, answer_novelty="7", note_novelty="seen <before>", note="on the whole")
    html = page(as_reviewer, output)
    assert 'name="answer.novelty" value="7" checked' in html
    assert "seen &lt;before&gt;</textarea>" in html
    assert "on the whole</textarea>" in html


def test_a_draft_is_ones_own(as_reviewer, output):
    post(as_reviewer, "draft", output, answer_novelty="7", note="mine alone")
    assert "mine alone" not in page(signed_in(make_user("bo")), output)


def test_what_a_post_does_not_name_stays(as_reviewer, output):
    post(as_reviewer, "draft", output, answer_novelty="7", note="kept")
    post(as_reviewer, "draft", output, answer_upside="8")
    assert Draft.objects.get().note == "kept"
    assert set(Draft.objects.get().answers) == {"novelty", "upside"}


@pytest.mark.parametrize(
    ("given", "told"),
    [("11", "allowed: 0 to 10"), ("-1", "allowed: 0 to 10"), ("nan", "out of scale"), ("inf", "out of scale"), ("six", "is not a number")],
)
def test_a_score_that_is_none_is_refused_with_what_is_allowed(as_reviewer, output, given, told):
    response = post(as_reviewer, "draft", output, htmx=True, answer_novelty=given)
    assert response.status_code == 422
    assert f"Novelty: {given}" in response.content.decode().replace("&#x27;", "")
    assert told in response.content.decode()
    assert Draft.objects.get().answers == {}


def test_binary_criteria_take_pass_fail_and_unsure(as_reviewer, reviewer):
    output = make_output(make_task("memory", code_rubric(), output_format="python"), "x = 1")
    submit(as_reviewer, output, CODE)
    grade = Grade.objects.get(rater=reviewer)
    rows = [(r.criterion.key, r.score, r.passed, r.unscored_reason) for r in grade.criterion_scores.all()]
    assert rows == [("memory_class", 10, True, ""), ("surprise_gate", None, None, "unsure"), ("learnable_decay", 10, True, "")]
    assert (grade.overall, grade.passed, grade.unscored_reason) == (None, None, "unsure")


def test_categories_and_other_scales_are_answered_too(as_reviewer, reviewer):
    output = kinds_output()
    html = page(as_reviewer, output)
    assert html.count('name="answer.stars"') == 5
    assert 'type="number" name="answer.percent"' in html
    submit(as_reviewer, output, {"stars": "4", "winner": "tie", "percent": "62.5"})
    rows = Grade.objects.get(rater=reviewer).criterion_scores.values_list("score", "value")
    assert list(rows) == [(4, ""), (None, "tie"), (62.5, "")]


def test_an_unknown_category_is_refused(as_reviewer):
    response = post(as_reviewer, "draft", kinds_output(), htmx=True, answer_winner="model_c")
    assert response.status_code == 422
    assert "allowed: model_a, tie, model_b" in response.content.decode()


def test_a_submit_needs_every_criterion_and_names_the_missing(as_reviewer, output):
    response = submit(as_reviewer, output, {"viability": "6", "upside": "8"})
    assert response.status_code == 422
    assert "Not answered: Success, Novelty." in response.content.decode()
    assert not Grade.objects.exists()
    assert set(Draft.objects.get().answers) == {"viability", "upside"}


def test_a_double_post_makes_one_grade(as_reviewer, output):
    form = {"base": "0", "seen": "0", **answers(IDEA)}
    replies = [post(as_reviewer, "submit", output, **form) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [302, 302]
    assert Grade.objects.count() == 1
    assert not Draft.objects.exists()


def test_a_tab_that_was_open_before_the_submit_starts_no_second_draft(as_reviewer, output):
    submit(as_reviewer, output)
    for what in ("draft", "evidence"):
        response = post(as_reviewer, what, output, htmx=True, base="0", answer_novelty="1")
        assert response.status_code == 409
        # Its form stays as it is: what was typed there is nowhere else.
        assert (response["HX-Retarget"], "<form" in response.content.decode()) == ("#total", False)
        assert "submitted this output already" in response.content.decode()
    assert not Draft.objects.exists()


def test_notes_come_into_the_grade(as_reviewer, output):
    submit(as_reviewer, output, note="thin", note_novelty="known")
    grade = Grade.objects.get()
    assert grade.rationale == "thin"
    assert grade.criterion_scores.get(criterion__key="novelty").rationale == "known"


def test_two_people_both_stand(as_reviewer, output):
    submit(as_reviewer, output)
    submit(signed_in(make_user("bo")), output, {**IDEA, "novelty": "3"})
    output.refresh_from_db()
    assert (output.human_count, output.human_score) == (2, pytest.approx((6.05 + 5.45) / 2))


def test_active_time_adds_up_over_saves(as_reviewer, output):
    post(as_reviewer, "draft", output, answer_novelty="7", active_s="40")
    Draft.objects.update(updated_at=timezone.now() - timedelta(seconds=60))
    submit(as_reviewer, output, active_s="20")
    assert Grade.objects.get().duration_s == 60


@pytest.mark.parametrize("told", ["99999", "1e308", "inf"])
def test_more_active_time_than_has_passed_is_not_believed(as_reviewer, output, told):
    post(as_reviewer, "draft", output, answer_novelty="7")
    post(as_reviewer, "draft", output, active_s=told)
    assert Draft.objects.get().active_ms < 3_000


@pytest.mark.parametrize("told", ["nan", "-5", "soon"])
def test_active_time_that_is_no_time_counts_nothing(as_reviewer, output, told):
    post(as_reviewer, "draft", output, answer_novelty="7", active_s=told)
    assert Draft.objects.get().active_ms == 0


def test_selected_text_becomes_evidence_of_a_criterion(as_reviewer, output):
    post(as_reviewer, "evidence", output, criterion="viability", quote="the reward is *wrong*")
    submit(as_reviewer, output)
    row = Grade.objects.get().criterion_scores.get(criterion__key="viability")
    assert row.evidence == [{"kind": "quote", "text": "the reward is *wrong*", "line_start": None, "line_end": None}]
    assert '<mark class="human"' in page(as_reviewer, output)


def test_evidence_in_code_names_its_lines(as_reviewer):
    output = make_output(make_task("memory", code_rubric(), output_format="python"), "import torch\nx = torch.ones(2)\n")
    post(as_reviewer, "evidence", output, criterion="memory_class", quote="x = torch.ones(2)")
    assert Draft.objects.get().answers["memory_class"]["evidence"][0]["line_start"] == 2
    assert "cited-human" in page(as_reviewer, output)


def test_evidence_can_be_taken_off_again(as_reviewer, output):
    post(as_reviewer, "evidence", output, criterion="viability", quote="The reward is wrong")
    post(as_reviewer, "evidence", output, remove="viability:0")
    assert Draft.objects.get().answers.get("viability", {}).get("evidence", []) == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"criterion": "viability", "quote": "something else entirely"}, "is not in the output"),
        ({"criterion": "viability", "quote": " "}, "Select text in the output first"),
        ({"criterion": "taste", "quote": "The reward"}, "allowed: viability, upside, success, novelty"),
    ],
)
def test_evidence_must_be_in_the_output_and_of_a_criterion(as_reviewer, output, data, told):
    response = post(as_reviewer, "evidence", output, htmx=True, **data)
    assert response.status_code == 422
    assert told in response.content.decode()


def test_a_flag_goes_up_and_down(as_reviewer, reviewer, output):
    post(as_reviewer, "flag", output, note="leaked answer")
    assert output.flags.get(resolved_at=None).note == "leaked answer"
    assert "Flagged" in page(as_reviewer, output)
    post(as_reviewer, "flag", output)
    assert not output.flags.filter(resolved_at=None).exists()


def test_an_output_without_content_says_why(as_reviewer):
    output = make_output(content="", content_missing="scores only: the texts are not public")
    assert "scores only: the texts are not public" in page(as_reviewer, output)


def test_a_task_without_a_rubric_says_so(as_reviewer, output):
    output.task.rubric = None
    output.task.save()
    assert "This task has no rubric yet" in page(as_reviewer, output)


def test_the_raw_text_is_a_download_that_can_not_run(as_reviewer):
    output = make_output(content="<script>alert(1)</script>")
    response = as_reviewer.get(reverse("review_raw", args=[output.pk]))
    assert response.content == b"<script>alert(1)</script>"
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Content-Disposition"] == f'attachment; filename="output-{output.pk}.txt"'
    assert response["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert response["X-Content-Type-Options"] == "nosniff"


def test_attached_evidence_is_marked_in_the_output_without_a_reload(as_reviewer, output):
    response = post(as_reviewer, "evidence", output, htmx=True, criterion="novelty", quote="The reward is wrong")
    html = response.content.decode()
    assert html.strip().startswith('<section id="rubric"')
    assert '<article id="content" class="document" hx-swap-oob="true">' in html
    assert '<mark class="human" id="m-novelty-0">The reward is wrong</mark>' in html
    assert 'id="c-novelty" data-row tabindex="-1" aria-current="true"' in html


def test_a_draft_that_no_longer_fits_a_new_rubric_is_refused_with_what_is_allowed(as_reviewer, output):
    post(as_reviewer, "draft", output, **answers(IDEA))
    criteria = tuple(spec.Criterion(key, key.title(), scale=(1, 5)) for key in IDEA)
    make_task(output.task.slug, spec.Rubric(criteria=criteria, scale=(1, 5)))
    response = post(as_reviewer, "submit", output, base="0", seen="0")
    assert response.status_code == 422
    assert "viability: score 6.0 is out of scale, allowed: 1 to 5" in response.content.decode()
    assert not Grade.objects.exists()


@pytest.mark.parametrize("htmx", [True, False])
def test_a_refused_submit_goes_to_the_first_criterion_that_is_missing(as_reviewer, output, htmx):
    response = post(as_reviewer, "submit", output, htmx=htmx, **answers({**IDEA, "upside": ""}))
    assert response.status_code == 422
    assert 'id="c-upside" data-row tabindex="-1" aria-current="true" autofocus' in response.content.decode()


def test_a_ten_has_the_keys_one_and_nought(as_reviewer, output):
    assert 'value="10" data-key="10 t"' in page(as_reviewer, output)


def test_flagging_says_so_and_shows(as_reviewer, output):
    post(as_reviewer, "flag", output, note="leaked answer")
    html = page(as_reviewer, output)
    assert f"Output {output.pk} is flagged: leaked answer." in html
    assert "Flagged by you" in html
    post(as_reviewer, "flag", output)
    assert "You took your flag back." in page(as_reviewer, output)


def test_marked_lines_of_code_say_of_what_and_whose_they_are(as_reviewer):
    output = make_output(make_task("memory", code_rubric(), output_format="python"), "class Memory:\n    pass\n")
    post(as_reviewer, "evidence", output, criterion="surprise_gate", quote="class Memory")
    html = page(as_reviewer, output)
    assert 'id="L1" title="Surprise gate · you"' in html
    assert '<span class="cite human" data-n="2"></span>' in html
