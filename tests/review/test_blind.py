"""Blind: until a reviewer has committed, not a byte of what others said, nor who made the output, reaches them."""

from __future__ import annotations

import pytest
from django.urls import reverse

from reviewapp.models import Draft, Grade
from tests.conftest import signed_in
from tests.make import make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.review.reviewing import IDEA, answers, page, post, submit

SECRETS = [
    "judge-omega",
    "3.87",
    "the-judge-says-so",
    "model-zeta",
    "variant-of-the-ablation",
    "academic_framing",
    "bo-the-other",
    "imported/model-zeta/7",
]


@pytest.fixture
def output(db):
    """An output that a judge and another reviewer have graded, with a word of its own for each secret."""
    task = make_task("ideas")
    task.variants.update(name="variant-of-the-ablation", title="variant-of-the-ablation")
    output = make_output(
        task,
        model="model-zeta",
        external_id="imported/model-zeta/7",
        transcript=[{"role": "assistant", "content": "Here.", "model": "model-zeta"}],
    )
    judge = make_grader("judge-omega")
    scores = {"viability": 3.87, "upside": 3.87, "success": 3.87, "novelty": 3.87}
    rationales = dict.fromkeys(scores, "the-judge-says-so")
    make_judge_grade(output, scores, judge, rationales=rationales, failure_category="academic_framing", stdout="the-judge-says-so")
    make_human_grade(output, make_user("bo-the-other"), dict.fromkeys(scores, 3.87))
    output.refresh_from_db()
    return output


@pytest.mark.parametrize(
    "query", ["", "?tab=output", "?tab=transcript", "?tab=prompt", "?tab=evidence", "?tab=history", "?diff=1", "?c=novelty"]
)
def test_nothing_of_the_others_is_in_any_tab(as_reviewer, output, query):
    html = page(as_reviewer, output, query)
    assert [secret for secret in SECRETS if secret in html] == []


@pytest.mark.parametrize("htmx", [True, False])
def test_nothing_of_the_others_is_in_the_answers_to_drafts_and_refused_submits(as_reviewer, output, htmx):
    replies = [
        post(as_reviewer, "draft", output, htmx=htmx, answer_viability="6"),
        post(as_reviewer, "draft", output, htmx=htmx, answer_viability="60"),
        post(as_reviewer, "submit", output, htmx=htmx, answer_viability="6"),
        post(as_reviewer, "evidence", output, htmx=htmx, criterion="upside", quote="not in it"),
        post(as_reviewer, "mode", output, htmx=htmx, mode="override", judge="1"),
        post(as_reviewer, "agree", output, htmx=htmx, judge=output.grades.first().pk),
        post(as_reviewer, "skip", output, htmx=htmx, reason=""),
    ]
    assert [reply.status_code for reply in replies][1:] == [422] * 6
    assert [secret for secret in SECRETS for reply in replies if secret in reply.content.decode()] == []


def test_the_closed_tabs_say_why(as_reviewer, output):
    assert "Closed until you submit" in page(as_reviewer, output, "?tab=history")
    assert "Closed until you submit" in page(as_reviewer, output, "?tab=evidence")


def test_the_prompt_is_shown_without_its_variant(as_reviewer, output):
    html = page(as_reviewer, output, "?tab=prompt")
    assert "The prompt of ideas." in html
    assert "variant hidden until you submit" in html


def test_after_the_submit_all_of_it_is_there(as_reviewer, output):
    assert submit(as_reviewer, output).status_code == 302
    html = page(as_reviewer, output)
    for secret in SECRETS:
        assert secret in html
    assert "+2.13" in html  # viability: 6 less 3.87
    assert "+2.18" in html  # overall: 6.05 less 3.87


def test_a_first_grade_without_seeing_the_judge_is_blind(as_reviewer, output, reviewer):
    submit(as_reviewer, output)
    grade = output.grades.get(rater=reviewer)
    assert (grade.mode, grade.overall, grade.supersedes) == ("blind", 6.05, None)


def test_seeing_the_judge_first_is_remembered_and_the_grade_counts_as_assisted(as_reviewer, output, reviewer):
    post(as_reviewer, "mode", output, mode="assisted", **answers({"viability": "6"}))
    html = page(as_reviewer, output)
    assert "judge-omega" in html
    assert Draft.objects.get().answers == {"viability": {"score": 6.0}}
    submit(as_reviewer, output)
    assert output.grades.get(rater=reviewer).mode == "assisted"


def test_leaving_after_the_judge_was_seen_does_not_make_one_blind_again(as_reviewer, output, reviewer):
    post(as_reviewer, "mode", output, mode="assisted")
    post(as_reviewer, "mode", output, mode="leave")
    submit(as_reviewer, output)
    assert output.grades.get(rater=reviewer).mode == "assisted"


def test_a_grade_after_an_undone_one_is_assisted_since_the_judge_was_shown(as_reviewer, output, reviewer):
    submit(as_reviewer, output)
    as_reviewer.post(reverse("review_undo"), {"grade": output.grades.get(rater=reviewer).pk})
    submit(as_reviewer, output, {**IDEA, "novelty": "5"})
    assert list(output.grades.filter(rater=reviewer).values_list("mode", flat=True)) == ["blind", "assisted"]


def test_an_undone_grade_means_that_the_judge_was_seen_even_without_its_draft(as_reviewer, output, reviewer):
    submit(as_reviewer, output)
    as_reviewer.post(reverse("review_undo"), {"grade": output.grades.get(rater=reviewer).pk})
    Draft.objects.all().delete()
    submit(as_reviewer, output, {**IDEA, "novelty": "5"})
    assert output.grades.filter(rater=reviewer).latest("pk").mode == "assisted"


def test_another_reviewers_submit_leaves_this_one_blind(as_reviewer, output):
    submit(signed_in(make_user("cy")), output)
    html = page(as_reviewer, output)
    assert [secret for secret in [*SECRETS, "6.05", "cy"] if f">{secret}" in html] == []


def test_a_viewer_sees_the_grades_and_has_no_form(as_viewer, output):
    html = page(as_viewer, output)
    assert "judge-omega" in html
    assert "rubric-form" not in html


def test_a_stranger_is_sent_to_sign_in(client, output):
    response = client.get(reverse("review", args=[output.pk]))
    assert response.status_code == 302
    assert response.url.startswith("/login/")


@pytest.mark.parametrize("name", ["draft", "submit", "agree", "mode", "evidence", "skip", "flag"])
def test_actions_are_posts_of_reviewers(as_reviewer, as_viewer, output, name):
    url = reverse(f"review_{name}", args=[output.pk])
    assert as_reviewer.get(url).status_code == 405
    assert as_viewer.post(url).status_code == 403
    assert as_reviewer.post(reverse(f"review_{name}", args=[10**9])).status_code == 404
    assert Grade.objects.count() == 2


def test_the_end_of_a_grading_tells_a_blind_reviewer_that_its_result_is_hidden(as_reviewer, output):
    response = as_reviewer.get(reverse("review", args=[output.pk]), headers={"HX-Request": "true"})
    assert "The result is hidden until you submit" in response.content.decode()
    assert "HX-Refresh" not in response.headers
    submit(as_reviewer, output)
    response = as_reviewer.get(reverse("review", args=[output.pk]), headers={"HX-Request": "true"})
    assert response["HX-Refresh"] == "true"


def test_seeing_the_judge_is_asked_about_first(as_reviewer, output):
    html = page(as_reviewer, output)
    assert 'popovertarget="assist"' in html
    assert "You will not be blind on this output again" in html


def test_the_job_of_an_output_does_not_link_to_the_page_that_it_is_shown_on(as_reviewer, output):
    from reviewapp.models import Job

    job = Job.objects.create(kind=Job.Kind.GRADE, output=output, grader=make_grader(), state=Job.State.DONE)
    here, url = reverse("review", args=[output.pk]), reverse("job", args=[job.pk])
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://testserver{here}?tab=output"}
    assert "Open the output" not in as_reviewer.get(url, headers=headers).content.decode()
    assert f'<a href="{here}">Open the output</a>' in as_reviewer.get(url).content.decode()
