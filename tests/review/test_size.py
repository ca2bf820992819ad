"""The page stays quick: a bounded number of queries however many grades there are, and a quick rendering."""

from __future__ import annotations

import time
from statistics import median

import pytest
from django.urls import reverse

from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_user
from tests.review.reviewing import IDEA, answers, post, submit

SCORES = {key: float(value) for key, value in IDEA.items()}
PROSE = "## Part\n\nSome *prose* with `code`, [a link](https://a.example) and $x^2$ in it.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n" * 40


@at_once
def grade_much(output, times: int) -> None:
    for n in range(times):
        make_judge_grade(output, SCORES, make_grader(f"judge-{n}"))
        make_human_grade(output, make_user(f"user-{output.pk}-{n}"), SCORES)


@pytest.mark.parametrize("query", ["", "?tab=transcript", "?tab=prompt", "?tab=evidence", "?tab=history"])
@pytest.mark.parametrize("is_blind", [True, False])
def test_the_queries_of_a_page_do_not_grow_with_the_grades(as_reviewer, django_assert_max_num_queries, query, is_blind):
    few, many = make_output(content=PROSE), make_output(content=PROSE)
    grade_much(few, 1)
    grade_much(many, 6)
    for output in (few, many):
        if not is_blind:
            submit(as_reviewer, output)
        with django_assert_max_num_queries(18):
            assert as_reviewer.get(reverse("review", args=[output.pk]) + query).status_code == 200


def test_saving_an_answer_and_submitting_take_a_bounded_number_of_queries(as_reviewer, django_assert_max_num_queries):
    output = make_output()
    grade_much(output, 8)
    with django_assert_max_num_queries(18):
        post(as_reviewer, "draft", output, htmx=True, base="0", **answers({"viability": "6"}))
    with django_assert_max_num_queries(45):
        post(as_reviewer, "submit", output, base="0", **answers(IDEA))


def test_a_typical_page_is_drawn_in_well_under_a_tenth_of_a_second(as_reviewer):
    output = make_output(content=PROSE)
    grade_much(output, 3)
    submit(as_reviewer, output)
    times = []
    for _ in range(7):
        started = time.process_time()
        as_reviewer.get(reverse("review", args=[output.pk]))
        times.append(time.process_time() - started)
    assert median(times) < 0.1
