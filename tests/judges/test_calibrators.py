"""The calibrators on a judge's page: the map by the labels of now, how it was tested, and what it lacks."""

import re
from html import unescape
from io import StringIO

import pytest
from django.core.management import call_command

from reviewapp.models import Calibrator, User
from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user

pytestmark = pytest.mark.django_db
KEYS = ("viability", "upside", "success", "novelty")
PART = "/judges/judge/3/calibrators/"


@at_once
def grade(n: int, task=None, *, always: float | None = None):
    """The judge says 2 to 9, ana about two points less, or always the same."""
    task, judge, ana = task or make_task(), make_grader("judge", "3"), make_user(f"ana{User.objects.count()}")
    for i in range(n):
        output = make_output(task)
        make_judge_grade(output, dict.fromkeys(KEYS, 2 + i % 8), judge)
        make_human_grade(output, ana, dict.fromkeys(KEYS, i % 8 + 0.5 * (i % 2) if always is None else always))
    return task


def said(client) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(PART).content.decode())))


def test_the_page_loads_them_after_itself_and_links_to_them(as_viewer):
    grade(3)
    page = as_viewer.get("/judges/judge/3/").content.decode()
    assert f'hx-get="{PART}" hx-trigger="load"' in page and f'href="{PART}"' in page
    part = as_viewer.get(PART, headers={"HX-Request": "true"}).content.decode()
    assert part.lstrip().startswith('<div id="calibrators"') and "<html" not in part


def test_a_map_that_nothing_has_used_yet_is_shown_with_its_errors_and_not_kept(as_viewer):
    grade(24)
    text = said(as_viewer)
    assert "a line, fitted to 24 outputs with blind labels" in text
    assert "each output is predicted by a map fitted without its prompt" in text
    assert re.search(r"Error before 1\.75 1\.\d\d to 1\.\d\d 24 .* Error after 0\.\d\d 0\.\d\d to 0\.\d\d 24 ", text)
    assert re.search(r"One prediction, ± 0\.\d\d ", text)
    assert "not used yet: the next export, reward or calibrate --fit keeps it" in text and not Calibrator.objects.exists()


def test_a_map_that_was_used_is_named_by_its_version_and_since_when_it_is_kept(as_viewer):
    grade(24)
    seen = re.search(r"version ([0-9a-f]{12}) , not used yet", said(as_viewer))[1]
    call_command("calibrate", "--task", "ideas", "--fit", stdout=StringIO())
    kept = Calibrator.objects.get()
    assert kept.sha256[:12] == seen
    assert f"version {seen} , kept since {kept.created_at:%-d %b %Y}" in said(as_viewer)


def test_a_new_label_is_in_the_map_at_once(as_viewer):
    task = grade(24)
    assert "fitted to 24 outputs" in said(as_viewer)
    grade(2, task)
    assert "fitted to 26 outputs" in said(as_viewer)


def test_labels_that_all_agree_show_no_interval_of_a_prediction(as_viewer):
    grade(24, always=9)
    text = said(as_viewer)
    assert "Error after 0.00 no interval: it is the same whichever of the 24 is left out" in text
    assert "One prediction, ± no interval: the labels lie exactly where the map puts them" in text


def test_too_few_labels_say_how_many_more_and_lead_to_a_queue_of_them(as_reviewer, as_viewer):
    grade(11)
    assert "Not fitted, because 11 outputs have both scores, and it takes 20: label 9 more." in said(as_reviewer)
    link = unescape(re.search(r'href="(/queues/new[^"]+)"', as_reviewer.get(PART).content.decode())[1])
    form = as_reviewer.get(link).context["form"]
    assert (form.errors, form.values["task"], form.values["size"], form.values["judge"]) == ({}, "ideas", "9", "judge@3")
    assert "/queues/new" not in as_viewer.get(PART).content.decode()


def test_what_is_unchanged_is_not_fitted_again(as_viewer, django_assert_max_num_queries):
    grade(24)
    grade(24, make_task("more_ideas"))
    assert said(as_viewer).count("Calibrator on") == 2
    with django_assert_max_num_queries(9):
        as_viewer.get(PART)


def test_strangers_wrong_methods_and_judges_that_are_not_there(client, as_viewer):
    grade(1)
    assert client.get(PART).status_code == 302
    assert as_viewer.post(PART).status_code == 405
    assert as_viewer.get("/judges/nobody/1/calibrators/").status_code == 404
