"""The task pages."""

import re
from html import unescape

import pytest
from django.urls import reverse

import tasks.task as spec
from reviewapp.catalog.sync import save_variant, sync_tasks
from tests.make import make_human_grade, make_judge_grade, make_output


@pytest.fixture
def shipped(db):
    sync_tasks()


def test_the_list_shows_every_task_in_a_bounded_number_of_queries(as_viewer, shipped, django_assert_max_num_queries):
    with django_assert_max_num_queries(8):
        page = as_viewer.get(reverse("tasks")).content.decode()
    assert page.count('class="card card-link"') == 5


def test_a_task_shows_its_rubric_with_weights(as_viewer, shipped):
    page = as_viewer.get(reverse("task", args=["idea_proposal"])).content.decode()
    assert "passes at 7 or more of 10" in page
    for weight in ("0.3", "0.25", "0.15"):
        assert f">{weight}</td>" in page


def test_two_variants_are_compared_line_by_line(as_viewer, shipped):
    page = as_viewer.get(reverse("task", args=["neural_memory"]), {"variant": "biological_hints", "against": "explicit_hints"})
    assert b'class="diff-del"' in page.content
    assert b'class="diff-add"' in page.content


def test_a_variant_of_any_name_is_shown_by_its_link(as_viewer, db):
    task = make_output().task
    save_variant(task, spec.Variant(name="R&D #2 100%", prompt="Another prompt."))
    page = as_viewer.get(reverse("task", args=["ideas"])).content.decode()
    for link in re.findall(r'href="(\?variant=[^"#]+)#prompt"', page):
        shown = as_viewer.get(reverse("task", args=["ideas"]) + unescape(link))
        assert shown.context["shown"].name in ("default", "R&D #2 100%")
    assert shown.context["against"].name == "R&D #2 100%"


def test_an_unknown_task_is_not_found(as_viewer, shipped):
    assert as_viewer.get(reverse("task", args=["nothing"])).status_code == 404


def test_passes_and_failures_are_linked(as_viewer, db):
    good, bad = make_output(external_id="good-one"), make_output(external_id="bad-one")
    make_judge_grade(good, {"viability": 9, "upside": 9, "success": 9, "novelty": 9})
    make_judge_grade(bad, {"viability": 1, "upside": 1, "success": 1, "novelty": 1})
    page = as_viewer.get(reverse("task", args=["ideas"])).content.decode()
    assert page.index("Passes") < page.index("good-one") < page.index("Failures") < page.index("bad-one")


def test_an_empty_workspace_says_how_to_get_tasks(as_viewer):
    assert b"sync_tasks" in as_viewer.get(reverse("tasks")).content


def test_who_works_blind_sees_verdicts_only_of_what_they_have_graded(as_reviewer, reviewer, db):
    seen, unseen = make_output(external_id="seen-one"), make_output(external_id="unseen-one")
    nine = {"viability": 9, "upside": 9, "success": 9, "novelty": 9}
    for output in (seen, unseen):
        make_judge_grade(output, nine)
    make_human_grade(seen, reviewer, nine)
    page = as_reviewer.get(reverse("task", args=["ideas"])).content.decode()
    assert "seen-one" in page
    assert "unseen-one" not in page.replace(">seen-one", "")
