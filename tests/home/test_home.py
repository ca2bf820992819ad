"""The home page: each task's figures, and what to do next."""

import pytest
from django.urls import reverse

from reviewapp.home.queries import summarise_task
from tests.make import make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user

GOOD = dict.fromkeys(("viability", "upside", "success", "novelty"), 8)
BAD = dict.fromkeys(("viability", "upside", "success", "novelty"), 3)


def test_an_empty_workspace_offers_an_import(as_reviewer):
    page = as_reviewer.get(reverse("home")).content.decode()
    assert "Nothing to review yet" in page
    assert reverse("import") in page


def test_a_task_shows_its_judges_pass_rate_with_an_interval(as_reviewer, db):
    for scores in (GOOD, GOOD, GOOD, BAD):
        make_judge_grade(make_output(), scores)
    page = as_reviewer.get(reverse("home")).content.decode()
    assert "75 %" in page
    assert "30 %–95 %, n 4" in page  # Wilson for 3 of 4: .3006 to .9544


def test_the_corrected_rate_follows_the_people(db, reviewer):
    for number in range(40):
        output = make_output()
        make_judge_grade(output, GOOD)
        if number < 20:
            make_human_grade(output, reviewer, GOOD if number < 5 else BAD)
    summary = summarise_task(output.task)
    assert summary.rates[0].estimate.value == 1.0
    assert summary.corrected.value == pytest.approx(0.25)
    assert summary.corrected.low < 0.25 < summary.corrected.high


def test_grades_made_after_seeing_the_judge_do_not_calibrate_it(db, reviewer):
    output = make_output()
    judged = make_judge_grade(output, GOOD)
    make_human_grade(output, reviewer, BAD, mode="override", supersedes=judged)
    summary = summarise_task(output.task)
    assert summary.corrected.value is None
    assert summary.n_labelled == 1


def test_judge_health_says_why_it_is_missing(as_reviewer, db):
    make_judge_grade(make_output(), GOOD)
    assert b"no blind human grade" in as_reviewer.get(reverse("home")).content


@pytest.mark.parametrize("page", ["home", "calibration_index"])
def test_an_agreement_without_an_interval_says_so(as_reviewer, reviewer, db, page):
    for scores in (*[GOOD] * 8, BAD, BAD):
        output = make_output()
        make_judge_grade(output, scores)
        make_human_grade(output, reviewer, scores)
    shown = as_reviewer.get(reverse(page)).content.decode()
    assert "no interval: judge or people give another label than their most frequent on fewer than 3 prompts" in shown


def test_of_several_judges_it_says_which_one_is_held_to_people(as_reviewer, reviewer, db):
    for number in range(10):
        output = make_output()
        make_judge_grade(output, GOOD if number % 2 else BAD)
        make_judge_grade(output, GOOD, grader=make_grader("other-judge"))
        make_human_grade(output, reviewer, GOOD if number % 3 else BAD)
    judge = summarise_task(output.task).judge
    assert f"of {judge}, whose rate is corrected" in as_reviewer.get(reverse("home")).content.decode()


def test_labels_that_the_judge_did_not_grade_count_where_they_tell_more(db, reviewer):
    for number in range(60):
        output = make_output()
        make_human_grade(output, reviewer, GOOD if number % 2 else BAD)
        if number < 6:
            make_judge_grade(output, GOOD if number % 2 else BAD)
    for _ in range(10):
        make_judge_grade(make_output(), GOOD)
    summary = summarise_task(output.task)
    assert summary.corrected.n == 60
    assert summary.corrected.high - summary.corrected.low <= 1.05 * (summary.people.high - summary.people.low)


def test_labels_without_a_judges_verdict_say_what_the_corrected_rate_lacks(as_reviewer, reviewer, db):
    make_human_grade(make_output(), reviewer, GOOD)
    page = as_reviewer.get(reverse("home")).content.decode()
    assert "no output has both a judge verdict and a human label" in page
    assert "Grade some blind" not in page


def test_a_new_grade_shows_at_once(as_reviewer, reviewer, db):
    output = make_output()
    make_judge_grade(output, GOOD)
    as_reviewer.get(reverse("home"))
    make_human_grade(output, make_user("bob"), BAD)
    page = as_reviewer.get(reverse("home")).content.decode()
    assert "?task=ideas&label=labelled" in page


def test_a_sample_judge_is_marked(as_reviewer, db):
    make_judge_grade(make_output(is_sample=True), GOOD, grader=make_grader("sample-judge", is_sample=True))
    page = as_reviewer.get(reverse("home")).content.decode()
    assert ">1 sample<" in page
    assert '<span class="mark sample">sample</span>' in page


@pytest.mark.parametrize("n_tasks", [1, 4])
def test_the_queries_grow_only_with_the_tasks(as_reviewer, db, n_tasks, django_assert_max_num_queries):
    for number in range(n_tasks):
        task = make_task(f"task-{number}")
        for _ in range(5):
            make_judge_grade(make_output(task), GOOD)
    with django_assert_max_num_queries(10 + 7 * n_tasks):
        as_reviewer.get(reverse("home"))
    with django_assert_max_num_queries(10):
        as_reviewer.get(reverse("home"))
