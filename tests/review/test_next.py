"""What comes next: outputs nobody has graded first, in an order of the reviewer's own that never changes."""

from __future__ import annotations

import hashlib

import pytest
from django.db import connection
from django.urls import reverse

from reviewapp.models import Output, Skip
from reviewapp.review.order import next_output, progress
from tests.conftest import signed_in
from tests.make import make_human_grade, make_output, make_task, make_user
from tests.review.reviewing import IDEA, page, post, submit

SCORES = {key: float(value) for key, value in IDEA.items()}


@pytest.fixture
def outputs(db) -> list[Output]:
    task = make_task("ideas")
    return [make_output(task, content_hash=hashlib.sha256(str(n).encode()).hexdigest()) for n in range(8)]


def go_on(client, task: str = "ideas"):
    return client.get(reverse("review_next"), {"task": task})


def walk(user, task) -> list[int]:
    """Every output in the order in which this person gets them."""
    seen = []
    while output := next_output(user, task):
        Skip.objects.create(output=output, reviewer=user, reason="walk")
        seen.append(output.pk)
    return seen


def test_next_goes_through_all_of_them_and_then_says_so(as_reviewer, outputs):
    for _ in outputs:
        output = Output.objects.get(pk=go_on(as_reviewer).url.strip("/").split("/")[1])
        assert submit(as_reviewer, output).status_code == 302
    response = go_on(as_reviewer)
    assert response.status_code == 200
    assert "All reviewed" in response.content.decode()
    assert "8 of 8 reviewed by you" in response.content.decode()


def test_those_with_the_fewest_human_grades_come_first(reviewer, outputs):
    bo = make_user("bo")
    for output in outputs[:5]:
        make_human_grade(output, bo, SCORES)
    assert set(walk(reviewer, outputs[0].task)[:3]) == {output.pk for output in outputs[5:]}


def test_the_order_is_fixed_for_a_reviewer_and_differs_between_reviewers(outputs):
    task = outputs[0].task
    orders = []
    for n in range(6):
        user = make_user(f"user-{n}")
        orders.append(walk(user, task))
        Skip.objects.all().delete()
        assert walk(user, task) == orders[-1]
    assert all(sorted(order) == sorted(output.pk for output in outputs) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert sorted(orders[0]) not in orders


def test_a_skip_needs_a_reason_and_goes_on(as_reviewer, reviewer, outputs):
    output = next_output(reviewer, outputs[0].task)
    assert post(as_reviewer, "skip", output, reason="  ").status_code == 422
    response = post(as_reviewer, "skip", output, reason="", other="not my field")
    assert response.url == f"{reverse('review_next')}?task=ideas"
    assert Skip.objects.get().reason == "not my field"
    assert next_output(reviewer, outputs[0].task) != output


def test_what_others_skip_still_comes_to_me(as_reviewer, reviewer, outputs):
    output = next_output(reviewer, outputs[0].task)
    Skip.objects.create(output=output, reviewer=make_user("bo"), reason="x")
    assert next_output(reviewer, outputs[0].task) == output


def test_a_grade_taken_back_comes_again(as_reviewer, reviewer, outputs):
    output = next_output(reviewer, outputs[0].task)
    submit(as_reviewer, output)
    as_reviewer.post(reverse("review_undo"), {"grade": output.grades.get().pk})
    assert next_output(reviewer, outputs[0].task) == output


def test_old_versions_and_outputs_without_content_do_not_come(reviewer, outputs):
    Output.objects.filter(pk=outputs[0].pk).update(is_latest=False)
    Output.objects.filter(pk=outputs[1].pk).update(content_missing="not public")
    assert {outputs[0].pk, outputs[1].pk}.isdisjoint(walk(reviewer, outputs[0].task))
    assert progress(reviewer, outputs[0].task) == (0, 6)


def test_without_a_task_it_goes_on_with_the_one_graded_last(as_reviewer, reviewer, outputs):
    other = [make_output(make_task("zebra")) for _ in range(2)]
    submit(as_reviewer, other[0])
    response = as_reviewer.get(reverse("review_next"))
    assert response.url == reverse("review", args=[other[1].pk])


def test_the_head_tells_how_far_one_is(as_reviewer, outputs):
    submit(as_reviewer, outputs[0])
    submit(signed_in(make_user("bo")), outputs[1])
    assert "1 of 8 reviewed" in page(as_reviewer, outputs[2])


def test_with_nothing_to_review_at_all_the_page_says_so(as_reviewer):
    assert "No output waits for you" in as_reviewer.get(reverse("review_next")).content.decode()


def test_an_unknown_task_is_not_found_and_a_viewer_does_not_review(as_reviewer, as_viewer, outputs):
    assert go_on(as_reviewer, "no-such-task").status_code == 404
    assert go_on(as_viewer).status_code == 403
    assert as_reviewer.post(reverse("review_next")).status_code == 405


@pytest.mark.skipif(connection.vendor == "postgresql", reason="PostgreSQL reads a few rows as they lie, by whichever index")
def test_the_order_is_read_off_its_index(outputs, reviewer):
    level = Output.objects.filter(task=outputs[0].task, is_latest=True, human_count=0).order_by("content_hash", "id")
    plan = level.filter(content_hash__gte="5").explain()
    assert "output_by_review_order" in plan


def test_without_a_task_outputs_that_nobody_has_graded_come_before_those_of_other_tasks(as_reviewer, outputs):
    bo = make_user("bo")
    for output in outputs:
        make_human_grade(output, bo, SCORES)
    fresh = make_output(make_task("zebra"))
    assert as_reviewer.get(reverse("review_next")).url == reverse("review", args=[fresh.pk])
    submit(as_reviewer, fresh)
    assert as_reviewer.get(reverse("review_next")).url.startswith("/outputs/")
