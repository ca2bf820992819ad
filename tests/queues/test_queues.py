"""Queues: outputs drawn for people to grade blind, handed out one by one, and what their labels count for."""

import math
from datetime import timedelta
from html import unescape

import numpy as np
import pytest
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from reviewapp.calibration.study import study
from reviewapp.home.queries import summarise_task
from reviewapp.models import Claim, Queue, QueueItem
from reviewapp.queues.design import read_design
from reviewapp.queues.draw import QueueError, Wish, draw_queue
from reviewapp.rewards.labels import refreshed_once
from tests.conftest import signed_in
from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.review.reviewing import submit

pytestmark = pytest.mark.django_db
KEYS = ("viability", "upside", "success", "novelty")


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(KEYS, value)


@at_once
def graded_outputs(n: int):
    """The judge gives output i a score of i mod 10."""
    task, judge = make_task(), make_grader()
    outputs = [make_output(task) for _ in range(n)]
    with transaction.atomic(), refreshed_once():
        for i, output in enumerate(outputs):
            make_judge_grade(output, scores(i % 10), judge)
    return task, judge, outputs


def make_queue(client, **data):
    return client.post(reverse("new_queue"), {"task": "ideas", "policy": "random", "size": "5", "overlap": "1", **data})


def next_of(client, queue) -> int | None:
    """The output that the queue hands to this person, None when it has nothing for them."""
    url = client.get(reverse("queue_next", args=[queue.pk])).url
    return int(url.split("/")[2]) if url.startswith("/outputs/") else None


def test_a_reviewer_draws_a_queue_and_reviews_it_to_its_end(as_reviewer, reviewer):
    graded_outputs(8)
    response = make_queue(as_reviewer, size="3")
    queue = Queue.objects.get()
    assert response.url == queue.get_absolute_url()
    seen = []
    while output := next_of(as_reviewer, queue):
        seen.append(output)
        submit(as_reviewer, queue.items.get(output=output).output)
    assert seen == list(queue.items.values_list("output_id", flat=True)) and len(seen) == 3
    assert "3 of 3" in as_reviewer.get(queue.get_absolute_url()).content.decode()


def test_each_item_keeps_the_probability_with_which_it_was_drawn(as_reviewer):
    graded_outputs(8)
    make_queue(as_reviewer, size="2")
    assert set(QueueItem.objects.values_list("probability", flat=True)) == {0.25}


def test_the_same_seed_draws_the_same_outputs(as_reviewer):
    graded_outputs(20)
    for _ in range(2):
        make_queue(as_reviewer, seed="7", policy="active")
    first, second = (list(queue.items.values_list("output_id", flat=True)) for queue in Queue.objects.all())
    assert first == second


def test_submitting_leads_on_in_the_queue_and_the_grade_keeps_its_item(as_reviewer):
    graded_outputs(4)
    make_queue(as_reviewer, size="4")
    queue = Queue.objects.get()
    output = queue.items.get(output=next_of(as_reviewer, queue)).output
    submit(as_reviewer, output)
    assert Claim.objects.get().grade.output == output
    assert reverse("queue_next", args=[queue.pk]) in as_reviewer.get(output.get_absolute_url()).content.decode()


def test_two_reviewers_never_get_the_same_item(as_reviewer):
    graded_outputs(4)
    make_queue(as_reviewer, size="4")
    queue, ben = Queue.objects.get(), signed_in(make_user("ben"))
    assert next_of(as_reviewer, queue) == next_of(as_reviewer, queue)
    assert next_of(as_reviewer, queue) != next_of(ben, queue)


def test_with_two_people_an_output_both_get_it(as_reviewer):
    graded_outputs(1)
    make_queue(as_reviewer, size="1", overlap="2")
    queue, ben, eve = Queue.objects.get(), signed_in(make_user("ben")), signed_in(make_user("eve"))
    assert next_of(as_reviewer, queue) == next_of(ben, queue) is not None
    assert next_of(eve, queue) is None


def test_a_claim_that_has_run_out_falls_back_to_others(as_reviewer):
    graded_outputs(1)
    make_queue(as_reviewer, size="1")
    queue, ben = Queue.objects.get(), signed_in(make_user("ben"))
    assert next_of(as_reviewer, queue) and next_of(ben, queue) is None
    Claim.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert next_of(ben, queue) is not None


def test_outputs_that_are_labelled_already_are_done_at_once(as_reviewer, reviewer):
    _, _, outputs = graded_outputs(10)
    for output in outputs[:5]:
        make_human_grade(output, reviewer, scores(5))
    make_queue(as_reviewer, size="5")  # half is labelled: all ten are drawn
    assert "5 of 10" in as_reviewer.get(Queue.objects.get().get_absolute_url()).content.decode()


def test_a_closed_queue_hands_out_nothing(as_reviewer):
    graded_outputs(4)
    make_queue(as_reviewer)
    queue = Queue.objects.get()
    as_reviewer.post(reverse("close_queue", args=[queue.pk]))
    assert next_of(as_reviewer, queue) is None


def test_who_did_not_make_a_queue_may_not_close_it(as_reviewer):
    graded_outputs(4)
    make_queue(as_reviewer)
    assert signed_in(make_user("ben")).post(reverse("close_queue", args=[Queue.objects.get().pk])).status_code == 403


@pytest.mark.parametrize(
    "data, told",
    [
        ({"task": "nothing"}, "task is &#x27;nothing&#x27;, allowed: ideas"),
        ({"policy": "best"}, "policy is &#x27;best&#x27;, allowed: random, stratified, active, disagreement"),
        ({"size": "0"}, "size is 0, allowed: 1 to 10,000"),
        ({"size": "many"}, "size is &#x27;many&#x27;, must be a whole number"),
        ({"overlap": "21"}, "overlap is 21, allowed: 1 to 20"),
        ({"judge": "nobody@1"}, "judge is &#x27;nobody@1&#x27;, allowed: judge@1"),
        ({"filter": "modle=x"}, "is no filter. There are: task, model"),
        ({"filter": "q=" + "x" * 2000}, "filter has 2,002 characters, at most 2,000"),
        ({"filter": "model=nothing"}, "no output of ideas with content is kept by this filter"),
        ({"policy": "disagreement"}, "no output was graded by two judges, or by a judge and a person"),
    ],
)
def test_a_wish_that_can_not_be_met_is_refused_with_what_is_allowed(as_reviewer, data, told):
    graded_outputs(4)
    response = make_queue(as_reviewer, **data)
    assert response.status_code == 422 and told in response.content.decode()
    assert not Queue.objects.exists()


def test_an_address_that_asks_for_what_there_is_not_is_told_so_and_the_form_begins_with_the_default(as_reviewer):
    graded_outputs(1)
    response = as_reviewer.get("/queues/new", {"task": "zz", "policy": "zz", "size": "abc"})
    page = unescape(response.content.decode())
    assert response.status_code == 422
    for told in ("task is 'zz', allowed: ideas", "policy is 'zz', allowed: random,", "size is 'abc', must be a whole number"):
        assert told in page
    assert 'value="50"' in page and 'value="random" checked' in page
    assert "judge is 'nobody@1'" in unescape(as_reviewer.get("/queues/new", {"task": "ideas", "judge": "nobody@1"}).content.decode())


@pytest.mark.parametrize("query", ["", "?task=ideas", "?task=ideas&policy=stratified&size=20&judge=judge@1", "?policy=active"])
def test_an_address_that_fills_in_a_part_of_the_form_is_no_error(as_reviewer, query):
    graded_outputs(1)
    response = as_reviewer.get(f"/queues/new{query}")
    assert (response.status_code, response.context["form"].errors) == (200, {})


def test_strangers_viewers_and_wrong_methods(client, as_viewer, as_reviewer):
    graded_outputs(4)
    make_queue(as_reviewer)
    url = Queue.objects.get().get_absolute_url()
    assert client.get(url).status_code == client.get(reverse("queues")).status_code == 302
    assert as_viewer.get(url).status_code == as_viewer.get(reverse("queues")).status_code == 200
    assert as_viewer.get(reverse("new_queue")).status_code == as_viewer.get(f"{url}next").status_code == 403
    assert as_reviewer.post(url).status_code == as_reviewer.get(f"{url}close").status_code == 405
    assert as_reviewer.get(reverse("queue", args=[10**9])).status_code == 404
    assert as_reviewer.get(reverse("queues") + "?before=x").status_code == 400


def test_the_list_takes_as_many_queries_for_many_queues_as_for_one(as_reviewer, reviewer, django_assert_max_num_queries):
    task, _, _ = graded_outputs(10)
    for _ in range(5):
        draw_queue(Wish(task, size=4), reviewer)
    with django_assert_max_num_queries(8):
        assert as_reviewer.get(reverse("queues")).status_code == 200


# --- what labels count for ---------------------------------------------------------------------------------


@at_once
def label(queue, person, n: int | None = None) -> None:
    """The person grades the first n items of the queue, as if handed out by it."""
    for item in queue.items.select_related("output")[:n]:
        grade = make_human_grade(item.output, person, scores(5))
        Claim.objects.create(item=item, reviewer=person, until=timezone.now(), grade=grade)


def design_of(task, *people):
    ids = sorted({g.output_id for person in people for g in person.grades.all()})
    outputs = np.array(task.outputs.order_by("id").values_list("id", flat=True))
    return ids, read_design(task, outputs, np.array(ids), [1] * len(ids))


def test_labels_without_a_queue_count_alike_and_it_is_said(reviewer):
    task, _, outputs = graded_outputs(4)
    make_human_grade(outputs[0], reviewer, scores(5))
    _, design = design_of(task, reviewer)
    assert design.weights is None and design.counts == (("unknown", 1),)
    assert "How those without a queue were chosen is not known" in design.text


def test_labels_of_an_active_queue_weigh_one_over_their_probability(reviewer):
    task, judge, outputs = graded_outputs(30)
    ben = make_user("ben")
    for output in outputs[:12]:
        make_human_grade(output, ben, scores(output.pk % 7))
    queue = draw_queue(Wish(task, "active", 10, judge, seed=1), reviewer)
    label(queue, reviewer)
    ids, design = design_of(task, reviewer)
    chance = dict(queue.items.values_list("output_id", "probability"))
    assert design.weights * np.array([chance[pk] for pk in ids]) == pytest.approx(design.weights[0] * chance[ids[0]])


def test_of_a_queue_that_is_not_done_what_comes_before_its_first_open_item_counts(reviewer):
    task, judge, _ = graded_outputs(30)
    queue = draw_queue(Wish(task, "stratified", 10, judge, seed=1), reviewer)
    label(queue, reviewer, 4)
    make_human_grade(queue.items.get(position=7).output, make_user("ben"), scores(5))
    ids, design = design_of(task, reviewer)
    assert len(ids) == 4 and not np.isnan(design.weights).any()
    assert len(design.strata) == 30 and len(set(design.strata)) == len(queue.cuts) + 1


def test_labels_of_a_disagreement_queue_are_in_no_estimate(reviewer):
    task, judge, outputs = graded_outputs(6)
    for output in outputs:
        make_judge_grade(output, scores(1), make_grader("other"))
    queue = draw_queue(Wish(task, "disagreement", 3, judge), reviewer)
    assert list(queue.items.values_list("probability", flat=True)) == [None] * 3
    label(queue, reviewer)
    make_human_grade(outputs[0], reviewer, scores(5))
    _, design = design_of(task, reviewer)
    assert (int(design.is_counted.sum()), dict(design.counts)) == (1, {"disagreement": 3, "unknown": 1})


def test_labels_of_a_queue_that_drew_from_some_outputs_only_are_named(reviewer):
    task, judge, _ = graded_outputs(10)
    label(draw_queue(Wish(task, "random", 4, judge, filter="model=model-a", seed=1), reviewer), reviewer)
    _, design = design_of(task, reviewer)
    assert "4 are of queues that drew from some outputs only (a filter), and are taken to stand for all." in design.text


def test_random_and_active_labels_together_each_stand_for_all_outputs(reviewer):
    task, judge, _ = graded_outputs(40)
    even = draw_queue(Wish(task, "random", 10, judge, seed=1), reviewer)
    label(even, reviewer)
    active = draw_queue(Wish(task, "active", 10, judge, seed=2), reviewer)
    label(active, reviewer)
    ids, design = design_of(task, reviewer)
    is_even = np.array([pk in set(even.items.values_list("output_id", flat=True)) for pk in ids])
    share = design.weights / np.nansum(design.weights)
    assert 0.3 < share[is_even].sum() < 0.9 and math.isclose(np.nansum(share), 1)


def test_a_corrected_pass_rate_weighs_labels_as_they_were_drawn(as_reviewer, reviewer):
    """Four labels of what people pass, drawn at 4 in 5, and four of what they fail, drawn at 1 in 5."""
    task, judge, outputs = graded_outputs(20)
    queue = Queue.objects.create(task=task, judge=judge, policy="active", seed=1, size=8, population=20)
    passes = [output for i, output in enumerate(outputs) if i % 10 >= 7][:4]
    fails = [output for i, output in enumerate(outputs) if i % 10 < 7][:4]
    for position, output in enumerate(passes + fails):
        chance = 0.8 if output in passes else 0.2
        item = QueueItem.objects.create(queue=queue, output=output, position=position, probability=chance)
        grade = make_human_grade(output, reviewer, scores(9 if output in passes else 1))
        Claim.objects.create(item=item, reviewer=reviewer, until=timezone.now(), grade=grade)
    rate = study(task, None)["pooled"]["pass_rate"]["human"]["value"]
    assert rate == pytest.approx(4 / 0.8 / (4 / 0.8 + 4 / 0.2))
    assert summarise_task(task).corrected.value == pytest.approx(rate)


def test_a_wish_for_a_policy_that_draws_by_a_judge_needs_one():
    with pytest.raises(QueueError, match="draws by a judge's scores, and no judge is named"):
        Wish(make_task(), "active").check()


def test_outputs_whose_content_is_not_here_are_not_blamed_on_a_filter_that_nobody_set(as_reviewer):
    make_output(make_task(), content_missing="the file was not given")
    told = make_queue(as_reviewer).content.decode()
    assert "no output of ideas has its content here: nothing to draw from" in told and "this filter" not in told
