"""Gold items: outputs whose answer is known, mixed into a queue. They watch the reviewers, and tell nothing to them."""

import re

import pytest
from django.db import transaction
from django.urls import reverse

from reviewapp.api.facts import output_json
from reviewapp.calibration.study import study
from reviewapp.home.queries import summarise_task
from reviewapp.models import Claim, GoldAnswer, Grade, Output, Queue
from reviewapp.queues.claims import claim_next, settle
from reviewapp.queues.draw import QueueError, Wish, draw_queue
from reviewapp.queues.gold import gold_before
from reviewapp.review.sitting import sit_down
from reviewapp.rewards.labels import refreshed_once
from tests.conftest import signed_in
from tests.make import make_human_grade, make_output, make_user
from tests.queues.test_queues import graded_outputs, make_queue, next_of, scores
from tests.review.reviewing import page, submit

pytestmark = pytest.mark.django_db
NINES = dict.fromkeys(("viability", "upside", "success", "novelty"), "9")


@pytest.fixture
def adjudicator(db):
    return make_user("zelda", role="adjudicator")


@pytest.fixture
def as_adjudicator(adjudicator):
    return signed_in(adjudicator)


def settled(output: Output, by, value: float = 5) -> Output:
    """Two people differed on it, and an adjudicator has decided."""
    for n, score in enumerate((2, 8)):
        rater = type(by).objects.filter(username=f"rater-{n}").first() or make_user(f"rater-{n}")
        make_human_grade(output, rater, scores(score))
    make_human_grade(output, by, scores(value), mode="adjudication")
    return output


def gold_queue(by, n: int = 4, n_gold: int = 2, gold: int = 50, **wish) -> Queue:
    """A queue of all n unlabelled outputs, with gold of n_gold settled ones at 5. The judge graded them all."""
    task, judge, outputs = graded_outputs(n + n_gold)
    with transaction.atomic(), refreshed_once():
        for output in outputs[n:]:
            settled(output, by)
    return draw_queue(Wish(task, "random", n, judge, gold=gold, seed=1, **wish), by)


def gold_ids(queue: Queue) -> set[int]:
    return set(queue.items.filter(is_gold=True).values_list("output_id", flat=True))


def grade(person, output: Output) -> None:
    """As a submit does it, without the page: 8, 9 or 10."""
    settle(make_human_grade(output, person, scores(8 + output.pk % 3)))


def work_through(person, queue: Queue, most: int = 100) -> list[int]:
    """Grade what the queue hands out; the outputs in their order."""
    seen = []
    while len(seen) < most and (output := claim_next(queue, person)):
        grade(person, output)
        seen.append(output.pk)
    return seen


def work_until_gold(person, queue: Queue) -> Output:
    """Grade up to the first gold item, which is left open."""
    gold = gold_ids(queue)
    while (output := claim_next(queue, person)).pk not in gold:
        grade(person, output)
    return Output.objects.get(pk=output.pk)


# --- what is mixed in -------------------------------------------------------------------------------------


def test_an_adjudicator_mixes_settled_outputs_into_a_queue(as_adjudicator, adjudicator):
    _, _, outputs = graded_outputs(6)
    known = {settled(output, adjudicator).pk for output in outputs[:2]}
    make_queue(as_adjudicator, size="4", gold="50")
    queue = Queue.objects.get()
    assert queue.gold_share == 50 and gold_ids(queue) == known


def test_an_output_becomes_gold_by_the_answer_that_an_admin_expects(as_admin):
    _, _, outputs = graded_outputs(6)
    known = outputs[:2]
    for output in known:
        made = as_admin.post(reverse("gold_answer", args=[output.pk]), {"overall": "6.5", "passed": "fail", "note": "see the paper"})
        assert made.url == output.get_absolute_url()
    make_queue(as_admin, size="1", gold="20")
    queue = Queue.objects.get()
    assert gold_ids(queue) and gold_ids(queue) <= {output.pk for output in known}
    assert not Grade.objects.filter(rater__isnull=False).exists()
    as_admin.post(reverse("gold_answer", args=[known[0].pk]), {"remove": "1"})
    assert [answer.output for answer in GoldAnswer.objects.all()] == known[1:]


@pytest.mark.parametrize(
    "answer, told",
    [
        ({}, "The expected answer is empty: give an overall score, a verdict, or both."),
        ({"overall": "11"}, "overall is '11', allowed: a number from 0 to 10, or nothing"),
        ({"overall": "nan"}, "overall is 'nan'"),
        ({"passed": "maybe"}, "passed is 'maybe', allowed: pass, fail, or nothing"),
    ],
)
def test_an_expected_answer_that_makes_no_sense_is_refused(as_admin, answer, told):
    response = as_admin.post(reverse("gold_answer", args=[make_output().pk]), answer)
    assert response.status_code == 422 and told in response.content.decode()


def test_only_admins_expect_answers_and_only_adjudicators_mix_gold_in(as_reviewer, as_adjudicator, client, adjudicator):
    _, _, outputs = graded_outputs(4)
    settled(outputs[0], adjudicator)
    url = reverse("gold_answer", args=[outputs[1].pk])
    assert as_adjudicator.post(url, {"passed": "pass"}).status_code == 403
    assert as_adjudicator.get(url).status_code == 405 and client.post(url).status_code == 302
    refused = make_queue(as_reviewer, gold="20")
    assert refused.status_code == 422 and "Only adjudicators and admins mix gold items in" in refused.content.decode()
    assert 'name="gold"' not in as_reviewer.get(reverse("new_queue")).content.decode()


@pytest.mark.parametrize(
    "gold, told", [("51", "gold is 51 %, allowed: 0 to 50"), ("ten", "must be a whole number"), ("10", "has a known answer")]
)
def test_gold_that_can_not_be_mixed_in_is_refused_with_what_is_allowed(as_adjudicator, gold, told):
    graded_outputs(4)
    response = make_queue(as_adjudicator, gold=gold)
    assert response.status_code == 422 and told in response.content.decode()
    assert not Queue.objects.exists()


def test_gold_comes_from_the_outputs_of_the_filter_alone(adjudicator):
    task, judge, outputs = graded_outputs(6)
    settled(outputs[0], adjudicator)
    settled(outputs[1], adjudicator)
    ids = ".".join(str(output.pk) for output in outputs[1:])
    queue = draw_queue(Wish(task, "random", 4, judge, filter=f"ids={ids}", gold=50, seed=1), adjudicator)
    assert gold_ids(queue) == {outputs[1].pk}


def test_what_a_sample_still_asks_for_is_no_gold(adjudicator):
    """Whoever had it as gold could not give the label that the sample waits for."""
    task, judge, outputs = graded_outputs(3)
    for output in outputs[:2]:
        GoldAnswer.objects.create(output=output, passed=True)
    draw_queue(Wish(task, "random", 1, judge, filter=f"ids={outputs[0].pk}"), adjudicator)
    others = ".".join(str(output.pk) for output in outputs[1:])
    with pytest.raises(QueueError, match="are all asked for by a sample"):
        draw_queue(Wish(task, "random", 2, judge, filter=f"ids={others}", gold=50), adjudicator)
    with pytest.raises(QueueError, match="are all asked for by a sample"):
        draw_queue(Wish(task, "random", 1, judge, filter=f"ids={outputs[0].pk}", gold=50), adjudicator)


# --- when it comes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1, 10, 33, 50])
def test_so_many_of_a_hundred_items_are_gold_and_each_reviewer_has_them_at_other_places(adjudicator, share):
    queue, people = Queue(pk=5, gold_share=share), [make_user(f"p{n}") for n in range(4)]
    places = [tuple(n for n in range(200) if gold_before(queue, who, n + 1) > gold_before(queue, who, n)) for who in people]
    assert {len(found) for found in places} == {2 * share}
    assert len(set(places)) == len(people)


def test_every_reviewer_is_handed_gold_and_nobody_gold_alone(reviewer, adjudicator):
    queue = gold_queue(adjudicator, n=6, n_gold=1)
    ben = make_user("ben")
    seen, gold = work_through(reviewer, queue, most=4), gold_ids(queue)
    seen_by_ben = work_through(ben, queue)
    assert gold & set(seen) == gold & set(seen_by_ben) == gold
    ordinary = [pk for pk in (*seen, *seen_by_ben) if pk not in gold]
    assert len(ordinary) == len(set(ordinary)) == 6
    assert claim_next(queue, make_user("eve")) is None


def test_a_gold_item_is_graded_like_any_other(as_reviewer, reviewer, adjudicator):
    queue = gold_queue(adjudicator)
    output = work_until_gold(reviewer, queue)
    assert next_of(as_reviewer, queue) == output.pk
    submit(as_reviewer, output)
    claim = Claim.objects.get(reviewer=reviewer, item__is_gold=True)
    assert claim.grade.output == output and claim.grade.mode == "blind"


# --- what the reviewer is told ----------------------------------------------------------------------------

TELLING = ("gold", "zelda", "rater-0", "adjudicat", "known answer")


def told_in(html: str) -> set[str]:
    """The words that would tell, in what is drawn of a page."""
    return {word for word in TELLING if word in html.lower()}


def test_before_the_submit_nothing_tells_a_gold_item(as_reviewer, reviewer, adjudicator):
    queue = gold_queue(adjudicator)
    output = work_until_gold(reviewer, queue)
    other = queue.items.filter(is_gold=False).last().output
    for tab in ("", "?tab=history", "?tab=evidence", "?tab=prompt"):
        assert not told_in(page(as_reviewer, output, tab))
    drawn = [
        row(as_reviewer, o).replace(o.external_id, "").replace(f'value="{o.pk}"', "").replace(f"/{o.pk}/", "") for o in (output, other)
    ]
    assert drawn[0] == drawn[1]
    assert told_in(as_reviewer.get(queue.get_absolute_url()).content.decode()) == {"zelda"}  # who made the queue


def row(client, output: Output) -> str:
    """The output's row in the list, without what differs between any two."""
    html = client.get(reverse("outputs")).content.decode()
    found = re.search(rf"<tr>(?:(?!</tr>).)*/outputs/{output.pk}/.*?</tr>", html, re.S)[0]
    return re.sub(r"<time.*?</time>", "", found)


def test_after_the_submit_nothing_tells_it_either(as_reviewer, reviewer, adjudicator):
    queue = gold_queue(adjudicator)
    output = work_until_gold(reviewer, queue)
    submit(as_reviewer, output, NINES)
    for tab in ("", "?tab=history", "?tab=evidence"):
        assert not told_in(page(as_reviewer, output, tab))
    assert "by people" in row(as_reviewer, output) and not told_in(row(as_reviewer, output))
    assert "9" in row(as_reviewer, output)


def test_the_api_tells_it_as_little_as_the_pages(reviewer, adjudicator):
    queue = gold_queue(adjudicator)
    output = work_until_gold(reviewer, queue)
    grade(reviewer, output)
    sitting = sit_down(reviewer, output.pk)
    seen = output_json(sitting)
    assert {given["rater"] for given in seen["grades"]} <= {"ana", "", None} and seen["human"]["raters"] == 1
    assert seen["label"]["state"] == "labelled" and seen["label"]["score"] == sitting.standing.overall
    assert output_json(sit_down(adjudicator, output.pk))["label"]["state"] == "adjudicated"


def test_a_reviewer_can_not_find_gold_by_asking_which_outputs_are_labelled(as_reviewer, reviewer, adjudicator):
    gold_queue(adjudicator)
    for query in ("label=adjudicated", "label=labelled", "label=none", "reviewer=zelda", "label=adjudicated&reviewer=me"):
        html = as_reviewer.get(f"{reverse('outputs')}?{query}").content.decode()
        assert "would tell which items of a queue have a known answer" in html
    assert "?label=" not in as_reviewer.get(reverse("outputs")).content.decode()
    assert "?label=" in signed_in(adjudicator).get(reverse("outputs")).content.decode()
    assert "would tell which" not in signed_in(adjudicator).get(f"{reverse('outputs')}?label=adjudicated").content.decode()


def test_the_count_of_a_reviewer_goes_on_at_gold_as_at_any_item(as_reviewer, reviewer, adjudicator):
    queue = gold_queue(adjudicator, n=4, n_gold=2)
    counts = []
    while output := claim_next(queue, reviewer):
        counts.append(shown(as_reviewer, queue))
        grade(reviewer, output)
    counts.append(shown(as_reviewer, queue))
    total = counts[0][1]
    assert counts == [(done, total) for done in range(len(counts))] and total == len(counts) - 1 == 6


def shown(client, queue: Queue) -> tuple[int, int]:
    html = client.get(queue.get_absolute_url()).content.decode()
    return tuple(map(int, re.search(r'<span class="num">(\d+) of (\d+) <span class="muted">by you', html).groups()))


def test_a_queue_that_tells_says_it_after_the_submit(as_reviewer, reviewer, adjudicator):
    queue = gold_queue(adjudicator, tells_gold=True)
    output = work_until_gold(reviewer, queue)
    assert not told_in(page(as_reviewer, output))
    submit(as_reviewer, output, NINES)
    assert "This was a gold item." in page(as_reviewer, output)
    assert re.search(
        r'The known answer is <span class="num">5</span> +fail; yours is <span class="num">9.00</span> +pass', page(as_reviewer, output)
    )


# --- what it says of the reviewers ------------------------------------------------------------------------


def report(client, queue: Queue) -> str:
    return re.sub(r"\s+", " ", client.get(queue.get_absolute_url()).content.decode())


def test_the_page_says_how_each_reviewer_does_on_gold(as_reviewer, reviewer, as_adjudicator, adjudicator):
    queue = gold_queue(adjudicator, n=6, n_gold=5)
    work_through(reviewer, queue)
    html = report(as_adjudicator, queue)
    assert re.search(r"ana agrees with the known answer on 0 of 5 gold items, and scores [34.\d]+ points higher \(\+\d", html)
    assert '<span class="mark unsure">generous</span>' in html
    assert report(as_reviewer, queue).count("gold") == 0


def test_with_few_gold_items_it_is_said_that_it_is_too_early(reviewer, as_adjudicator, adjudicator):
    queue = gold_queue(adjudicator, n_gold=1)
    assert "No gold item is graded yet." in report(as_adjudicator, queue)
    work_through(reviewer, queue)
    html = report(as_adjudicator, queue)
    assert "ana agrees with the known answer on 0 of 1 gold item; 5 scores are needed to say whether they lean to one side." in html


def test_an_answer_that_an_admin_expects_counts_before_the_adjudication(reviewer, as_adjudicator, adjudicator):
    queue = gold_queue(adjudicator, n_gold=1)
    GoldAnswer.objects.create(output_id=gold_ids(queue).pop(), overall=9, passed=True)
    work_through(reviewer, queue)
    assert "ana agrees with the known answer on 1 of 1 gold item" in report(as_adjudicator, queue)


# --- and nothing else -------------------------------------------------------------------------------------


def test_no_figure_changes_by_what_people_give_gold(reviewer, adjudicator):
    """Gold is settled outputs, which two others graded blind: their labels count as before, and alone."""
    queue = gold_queue(adjudicator, n=4, n_gold=4)
    task = queue.task
    for output in task.outputs.exclude(pk__in=gold_ids(queue)):
        make_human_grade(output, make_user(f"u{output.pk}"), scores(6))
    before = study(task, None)["pooled"], summarise_task(task).corrected, summarise_task(task).people
    for item in queue.items.filter(is_gold=True):
        grade = make_human_grade(item.output, reviewer, scores(0))
        Claim.objects.create(item=item, reviewer=reviewer, until="2026-01-01T00:00Z", grade=grade)
        make_human_grade(item.output, reviewer, scores(1), mode="assisted", supersedes=grade)
    task.refresh_from_db()
    assert (study(task, None)["pooled"], summarise_task(task).corrected, summarise_task(task).people) == before
    assert study(task, None, "assisted")["n_outputs"] == 0


def test_gold_keeps_its_chance_among_the_known_and_is_no_part_of_the_sample(adjudicator):
    queue = gold_queue(adjudicator, n=2, n_gold=4)
    gold = queue.items.filter(is_gold=True)
    assert queue.size == queue.items.filter(is_gold=False).count()
    assert set(gold.values_list("probability", flat=True)) == {gold.count() / 4}


def test_a_grade_of_gold_is_not_what_another_queue_waits_for(as_reviewer, reviewer, adjudicator):
    """The output is drawn later as an ordinary item: it still wants a label, of somebody who did not have it as gold."""
    task, judge, outputs = graded_outputs(4)
    for output in outputs:
        GoldAnswer.objects.create(output=output, passed=True)
    queue = draw_queue(Wish(task, "random", 3, judge, gold=50), adjudicator)
    gold = gold_ids(queue).pop()
    assert set(work_through(reviewer, queue)) == {output.pk for output in outputs}
    later = draw_queue(Wish(task, "random", 1, judge, filter=f"ids={gold}"), adjudicator)
    assert next_of(as_reviewer, later) is None
    assert next_of(signed_in(make_user("ben")), later) == gold


def test_gold_takes_no_more_queries_however_many_items_there_are(
    as_reviewer, reviewer, as_adjudicator, adjudicator, django_assert_max_num_queries
):
    queue = gold_queue(adjudicator, n=4, n_gold=4)
    work_through(reviewer, queue)
    with django_assert_max_num_queries(22):
        as_adjudicator.get(queue.get_absolute_url())
    with django_assert_max_num_queries(8):
        as_reviewer.get(reverse("queues"))
    with django_assert_max_num_queries(16):
        as_reviewer.get(reverse("queue_next", args=[queue.pk]))
