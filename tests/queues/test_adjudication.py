"""Adjudication: what raters differ on, shown to an adjudicator with their grades side by side, and settled."""

import re
from datetime import timedelta

import numpy as np
import pytest
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from reviewapp.grading import Answer, record_human_grade
from reviewapp.models import Claim, Draft, Grade, Output, Queue
from reviewapp.queues.adjudication import Scope, differing, make_adjudication
from reviewapp.queues.claims import claim_next, settle
from reviewapp.queues.design import read_design
from reviewapp.queues.draw import Wish, draw_queue
from reviewapp.rewards import labels
from tests.conftest import signed_in
from tests.make import make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.queues.test_queues import design_of, label, next_of, scores
from tests.review.reviewing import field, page, post, submit

pytestmark = pytest.mark.django_db
SEVENS = dict.fromkeys(("viability", "upside", "success", "novelty"), "7")


@pytest.fixture
def adjudicator(db):
    return make_user("zelda", role="adjudicator")


@pytest.fixture
def as_adjudicator(adjudicator):
    return signed_in(adjudicator)


def rated(*given: float, output: Output | None = None, **fields) -> Output:
    """An output that rater-0, rater-1, ... gave these scores, and the judge a 1."""
    output = output or make_output(make_task())
    with transaction.atomic(), labels.refreshed_once():
        make_judge_grade(output, scores(1), make_grader(), rationales={"viability": "The judge's reason."})
        for n, score in enumerate(given):
            make_human_grade(output, rater(n), scores(score), **fields)
    return output


def rater(n: int):
    found = Grade.objects.filter(rater_name=f"rater-{n}").select_related("rater").first()
    return found.rater if found else make_user(f"rater-{n}")


def queue_of(task, by=None, difference: float = 2) -> Queue:
    task.refresh_from_db()
    return make_adjudication(Scope(task, None, difference), by)


def waiting(queue: Queue) -> set[int]:
    scope = Scope(Output.objects.first().task, queue.source_id, queue.max_difference)
    return set(differing([scope])[scope])


def shown(client, queue: Queue) -> str:
    return re.sub(r"\s+", " ", client.get(queue.get_absolute_url()).content.decode())


# --- what differs -----------------------------------------------------------------------------------------


def test_raters_differ_by_more_than_d_points_or_in_the_verdict():
    far, near, split = rated(2, 5), rated(2, 4), rated(6.5, 7.5)
    assert split.task.rubric.pass_threshold == 7
    assert waiting(queue_of(far.task)) == {far.pk, split.pk}
    assert near.task.refresh_from_db() is None and waiting(queue_of(far.task, difference=1.5)) == {far.pk, near.pk, split.pk}


def test_one_person_who_changes_their_mind_does_not_differ():
    output = rated(2)
    make_human_grade(output, rater(0), scores(9), mode="assisted")
    rated(3, output=output, mode="assisted")
    rated(2, 9)
    assert output.pk not in waiting(queue_of(output.task))


def test_a_settled_output_leaves_and_comes_back_when_that_is_undone(as_adjudicator):
    output = rated(2, 9)
    queue = queue_of(output.task)
    next_of(as_adjudicator, queue)
    submit(as_adjudicator, output, SEVENS)
    assert "1 of 1" in shown(as_adjudicator, queue) and "nothing differs" in shown(as_adjudicator, queue)
    as_adjudicator.post(reverse("review_undo"), {"grade": Grade.objects.get(mode="adjudication").pk})
    assert "0 of 1" in shown(as_adjudicator, queue) and next_of(as_adjudicator, queue) == output.pk
    submit(as_adjudicator, output, SEVENS)
    assert Grade.objects.filter(mode="adjudication").count() == 2
    assert Claim.objects.get().grade == Grade.objects.filter(mode="adjudication").last()


def test_what_differs_later_comes_in_later(as_adjudicator):
    first = rated(2, 9)
    queue = queue_of(first.task)
    next_of(as_adjudicator, queue)
    submit(as_adjudicator, first, SEVENS)
    assert next_of(as_adjudicator, queue) is None
    second = rated(2, 9)
    assert "1 of 2" in shown(as_adjudicator, queue) and next_of(as_adjudicator, queue) == second.pk


def test_those_furthest_apart_come_first(as_adjudicator):
    little, much = rated(2, 5), rated(1, 6)
    assert next_of(as_adjudicator, queue_of(little.task)) == much.pk


def test_a_queue_of_one_sample_looks_at_its_items_alone(as_adjudicator, adjudicator):
    ours, theirs = rated(2, 9), rated(2, 9)
    sample = draw_queue(Wish(ours.task, "random", 5, filter=f"ids={ours.pk}", overlap=3), adjudicator)
    assert "1</span> item differs: adjudicate" in shown(as_adjudicator, sample)
    made = as_adjudicator.post(reverse("new_adjudication"), {"source": sample.pk})
    queue = Queue.objects.get(kind="adjudication")
    assert made.url == queue.get_absolute_url() and queue.source == sample
    assert waiting(queue) == {ours.pk} and theirs.pk not in queue.items.values_list("output_id", flat=True)
    assert f'href="{queue.get_absolute_url()}"><span class="num">1</span> item differs: adjudicate' in shown(as_adjudicator, sample)


# --- settling ---------------------------------------------------------------------------------------------


def test_the_raters_grades_stand_side_by_side_and_the_judge_is_hidden(as_adjudicator):
    output = rated(2, 9)
    next_of(as_adjudicator, queue_of(output.task))
    html = page(as_adjudicator, output)
    table = re.search(r'<div class="raters-table.*?</table>', html, re.S)[0]
    assert "Rater A" in table and "Rater B" in table and "rater-0" not in html
    assert sorted(re.findall(r'<td class="num">(\d)</td>', table)) == ["2"] * 4 + ["9"] * 4
    assert "Adjudication: raters visible" in html and "The judge's reason." not in html and "model-a" not in html
    assert "Closed until you submit" in page(as_adjudicator, output, "?tab=history")


def test_an_admin_sees_who_the_raters_are(as_admin):
    output = rated(2, 9)
    next_of(as_admin, queue_of(output.task))
    assert "rater-0" in page(as_admin, output) and "Rater A" not in page(as_admin, output)


def test_the_raters_notes_and_quotes_are_there(as_adjudicator):
    output = rated(9)
    quote = [{"kind": "quote", "text": "Some text.", "line_start": None, "line_end": None}]
    answers = {key: Answer(2) for key in scores(2)} | {"viability": Answer(2, note="No buyer.", evidence=quote)}
    record_human_grade(output, rater(1), "blind", answers, key="k", rationale="Weak.")
    next_of(as_adjudicator, queue_of(output.task))
    html = page(as_adjudicator, output)
    assert "No buyer." in html and "Weak." in html and re.search(r"<mark[^>]*>Some text", html)


def test_an_adjudication_is_the_label_and_the_history_shows_it(as_adjudicator):
    output = rated(2, 9)
    next_of(as_adjudicator, queue_of(output.task))
    submit(as_adjudicator, output, SEVENS)
    output.refresh_from_db()
    grade = Grade.objects.get(mode="adjudication")
    assert (output.label_state, output.label_score, output.label_passed) == ("adjudicated", 7, True)
    assert labels.human_label(labels.read_facts([output.pk])[output.pk]).grade_ids == (grade.pk,)
    html = page(as_adjudicator, output, "?tab=history")
    assert "Settles what the raters differ on" in html and "rater-0" in html and "The judge" in page(as_adjudicator, output)


def test_a_draft_is_kept_and_submitting_leads_on(as_adjudicator):
    first, second = rated(2, 9), rated(2, 8)
    queue = queue_of(first.task)
    assert next_of(as_adjudicator, queue) == first.pk
    post(as_adjudicator, "draft", first, base="0", seen="0", answer_viability="4")
    assert Draft.objects.get().mode == "adjudication" and next_of(as_adjudicator, queue) == first.pk
    submit(as_adjudicator, first, SEVENS)
    assert reverse("queue_next", args=[queue.pk]) in page(as_adjudicator, first)
    assert next_of(as_adjudicator, queue) == second.pk


def test_two_adjudicators_never_have_the_same_item(as_adjudicator):
    other = signed_in(make_user("otto", role="adjudicator"))
    queue = queue_of(rated(2, 9).task)
    assert next_of(as_adjudicator, queue) and next_of(other, queue) is None
    Claim.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert next_of(other, queue) is not None


def test_who_comes_too_late_is_told_and_settles_nothing(as_adjudicator):
    other = signed_in(make_user("otto", role="adjudicator"))
    output = rated(2, 9)
    queue = queue_of(output.task)
    next_of(as_adjudicator, queue)
    html = page(as_adjudicator, output)
    post(as_adjudicator, "draft", output, base="0", seen="0", answer_viability="4")
    Claim.objects.update(until=timezone.now() - timedelta(seconds=1))
    next_of(other, queue)
    submit(other, output, SEVENS)
    late = {"base": field(html, "base"), "seen": field(html, "seen"), **{f"answer_{key}": "3" for key in SEVENS}}
    response = post(as_adjudicator, "submit", output, **late)
    assert response.status_code == 409 and "Somebody else has settled this output since" in response.content.decode()
    assert Grade.objects.get(mode="adjudication").rater_name == "otto"
    submit(as_adjudicator, output, SEVENS)
    assert Grade.objects.filter(mode="assisted").get().rater_name == "zelda"


def test_nobody_settles_their_own_grade(as_adjudicator, adjudicator):
    output = rated(2)
    make_human_grade(output, adjudicator, scores(9))
    queue = queue_of(output.task)
    assert next_of(as_adjudicator, queue) is None and "Nobody settles their own" in shown(as_adjudicator, queue)
    assert next_of(signed_in(make_user("otto", role="adjudicator")), queue) == output.pk


def test_a_skipped_item_is_left_to_others(as_adjudicator):
    output = rated(2, 9)
    queue = queue_of(output.task)
    next_of(as_adjudicator, queue)
    post(as_adjudicator, "skip", output, reason="Outside what I can judge")
    assert next_of(as_adjudicator, queue) is None
    assert next_of(signed_in(make_user("otto", role="adjudicator")), queue) == output.pk


def test_a_closed_queue_settles_nothing(as_adjudicator):
    output = rated(2, 9)
    queue = queue_of(output.task)
    next_of(as_adjudicator, queue)
    as_adjudicator.post(reverse("close_queue", args=[queue.pk]))
    assert next_of(as_adjudicator, queue) is None and "Adjudication: raters visible" not in page(as_adjudicator, output)


# --- who may, and where it is found -----------------------------------------------------------------------


def test_strangers_viewers_reviewers_and_wrong_input(client, as_viewer, as_reviewer, as_adjudicator):
    output = rated(2, 9)
    queue, url = queue_of(output.task), reverse("new_adjudication")
    assert client.get(url).status_code == 302
    assert as_viewer.get(url).status_code == as_reviewer.get(url).status_code == as_reviewer.post(url).status_code == 403
    assert as_reviewer.get(reverse("queue_next", args=[queue.pk])).status_code == 403
    assert as_viewer.get(queue.get_absolute_url()).status_code == 200 and "Adjudicate next" not in shown(as_reviewer, queue)
    assert as_adjudicator.get(url).status_code == 200 and as_adjudicator.put(url).status_code == 405


@pytest.mark.parametrize(
    "data, told",
    [
        ({"task": "nothing"}, "task is &#x27;nothing&#x27;, allowed: ideas"),
        ({"task": "ideas", "difference": "11"}, "difference is &#x27;11&#x27;, allowed: a number of points from 0 to 10"),
        ({"task": "ideas", "difference": "nan"}, "difference is &#x27;nan&#x27;"),
        ({"source": "77"}, "source is &#x27;77&#x27;, allowed: the number of a queue that was drawn"),
    ],
)
def test_an_adjudication_that_makes_no_sense_is_refused_with_what_is_allowed(as_adjudicator, data, told):
    rated(2, 9)
    response = as_adjudicator.post(reverse("new_adjudication"), data)
    assert response.status_code == 422 and told in response.content.decode()
    assert not Queue.objects.exists()


def test_the_same_queue_is_not_made_twice(as_adjudicator):
    rated(2, 9)
    for _ in range(2):
        as_adjudicator.post(reverse("new_adjudication"), {"task": "ideas", "difference": "3"})
    assert Queue.objects.get().max_difference == 3


def test_home_leads_adjudicators_to_what_differs(as_adjudicator, as_reviewer):
    output = rated(2, 9)
    home = as_adjudicator.get(reverse("home")).content.decode()
    assert "1</span> output of Ideas passes with one rater and fails with another: adjudicate" in home
    queue = queue_of(output.task)
    home = as_adjudicator.get(reverse("home")).content.decode()
    assert f'href="{queue.get_absolute_url()}"><span class="num">1</span> output differs: adjudicate' in home
    assert "adjudicate" not in as_reviewer.get(reverse("home")).content.decode()
    next_of(as_adjudicator, queue)
    submit(as_adjudicator, output, SEVENS)
    assert "adjudicate" not in as_adjudicator.get(reverse("home")).content.decode()


# --- how far, and what it says ----------------------------------------------------------------------------


def test_the_page_says_whom_the_adjudications_bear_out(as_adjudicator, adjudicator):
    outputs = [rated(*given) for given in ((7, 1), (9, 3), (8, 2), (9, 3), (7, 1))]
    queue = queue_of(outputs[0].task)
    assert "Nothing is settled yet." in shown(as_adjudicator, queue)
    while output := claim_next(queue, adjudicator):
        settle(make_human_grade(output, adjudicator, scores(8), mode="adjudication"))
        queue.task.refresh_from_db()
    html = shown(as_adjudicator, queue)
    assert "5 of 5" in html and "Raters' agreement</dt>" in html
    assert "rater-0 agrees with the adjudication on 5 of 5 settled items, and leans to neither side as far as can be told" in html
    assert "rater-1 agrees with the adjudication on 0 of 5 settled items, and scores 6 points lower" in html


def test_an_adjudication_changes_no_weight_of_the_labels_that_it_settles(as_adjudicator, adjudicator):
    """Labels of an active queue keep one over their probability, also where the adjudicator is among its people."""
    task, judge = make_task(), make_grader()
    outputs = [make_output(task) for _ in range(12)]
    for i, output in enumerate(outputs):
        make_judge_grade(output, scores(i % 10), judge)
    sample = draw_queue(Wish(task, "active", 6, judge, overlap=2, seed=1), None)
    ana, ben = make_user("ana"), make_user("ben")
    label(sample, ana)
    for item in sample.items.select_related("output"):
        grade = make_human_grade(item.output, ben, scores(9))
        Claim.objects.create(item=item, reviewer=ben, until=timezone.now(), grade=grade)
    ids, before = design_of(task, ana)
    queue = queue_of(task)
    settle(make_human_grade(claim_next(queue, adjudicator), adjudicator, scores(7), mode="adjudication"))
    assert (design_of(task, ana)[1].weights == before.weights).all()
    all_ids = np.array(task.outputs.order_by("id").values_list("id", flat=True))
    raters = [2 + (output.label_state == "adjudicated") for output in task.outputs.filter(pk__in=ids).order_by("id")]
    assert max(raters) == 3
    weights = read_design(task, all_ids, np.array(ids), raters, with_adjudications=True).weights
    assert (weights == before.weights).all()


def test_queries_do_not_grow_with_the_queues_or_the_outputs(as_adjudicator, adjudicator, django_assert_max_num_queries):
    output = rated(2, 9)
    for difference in (1, 2, 3, 4):
        queue = queue_of(output.task, adjudicator, difference)
    for _ in range(4):
        rated(2, 9)
    with django_assert_max_num_queries(13):
        as_adjudicator.get(reverse("queues"))
    rated(2, 9)
    with django_assert_max_num_queries(18):
        as_adjudicator.get(reverse("home"))
    rated(2, 9)
    with django_assert_max_num_queries(20):
        as_adjudicator.get(queue.get_absolute_url())
    rated(2, 9)
    with django_assert_max_num_queries(20):
        response = as_adjudicator.get(reverse("queue_next", args=[queue.pk]))
    at_hand = Output.objects.get(pk=int(response.url.split("/")[2]))
    with django_assert_max_num_queries(18):
        page(as_adjudicator, at_hand)
