"""What is done with ticked outputs, or with all that match."""

from urllib.parse import parse_qs, urlsplit

import pytest

from reviewapp.models import Job, Run
from reviewapp.outputs.filters import parse_query
from reviewapp.outputs.queries import filtered
from tests.make import make_output, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def outputs(db):
    code, ideas = make_task("neural_memory"), make_task("ideas")
    return [make_output(code, external_id=f"code{i}") for i in range(3)] + [make_output(ideas, external_id="idea")]


def test_ticked_outputs_are_graded_by_jobs(as_admin, outputs):
    ids = [outputs[0].pk, outputs[2].pk]
    response = as_admin.post("/outputs/selection/grade", {"scope": "ticked", "ids": ids, "grader": "text_match"})
    assert response.url == f"/runs/{Run.objects.get().pk}/"
    jobs = Job.objects.filter(kind="grade", grader__name="text_match")
    assert sorted(jobs.values_list("output_id", flat=True)) == ids


def test_all_that_match_are_graded_and_those_of_other_tasks_left_out(as_admin, outputs):
    response = as_admin.post("/outputs/selection/grade", {"scope": "all", "query": "", "grader": "text_match"}, follow=True)
    assert Job.objects.count() == 3
    assert "text_match: 3 queued, 1 left out" in response.content.decode()


def test_asking_twice_grades_once(as_admin, outputs):
    for _ in range(2):
        response = as_admin.post(
            "/outputs/selection/grade", {"scope": "all", "query": "task=neural_memory", "grader": "text_match"}, follow=True
        )
    assert Job.objects.count() == 3
    assert "3 under way already" in response.content.decode()


def test_more_than_the_cap_is_refused(as_admin, outputs, monkeypatch):
    monkeypatch.setattr("reviewapp.outputs.actions.MOST_SELECTED", 2)
    response = as_admin.post("/outputs/selection/grade", {"scope": "all", "query": "", "grader": "text_match"})
    assert response.status_code == 422
    assert "More than 2 outputs match" in response.content.decode()
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"scope": "ticked", "grader": "text_match"}, "No output is ticked"),
        ({"scope": "ticked", "ids": ["x", "9" * 30], "grader": "text_match"}, "No output is ticked"),
        ({"scope": "all", "grader": "nobody"}, "grader is &#x27;nobody&#x27;, allowed: "),
        ({"scope": "all", "query": "task=ideas", "grader": "text_match"}, "these tasks have no grader here"),
    ],
)
def test_a_selection_that_cannot_be_graded_is_refused_with_the_reason(as_admin, outputs, fields, told):
    response = as_admin.post("/outputs/selection/grade", fields)
    assert response.status_code == 422
    assert told in response.content.decode()
    assert not Job.objects.exists()


def test_only_admins_grade_in_bulk(as_reviewer, outputs):
    assert as_reviewer.post("/outputs/selection/grade", {"scope": "all", "grader": "text_match"}).status_code == 403


@pytest.mark.parametrize("scope", ["ticked", "all"])
def test_a_selection_goes_to_the_datasets_page_as_a_filter(as_admin, outputs, scope):
    fields = {"scope": scope, "ids": [outputs[1].pk, outputs[3].pk], "query": "task=neural_memory&sort=-judge"}
    url = urlsplit(as_admin.post("/outputs/selection/export", fields).url)
    [query] = parse_qs(url.query)["filter"]
    kept = set(filtered(parse_query(query)[0]).values_list("external_id", flat=True))
    assert url.path == "/datasets/"
    assert kept == ({"code1", "idea"} if scope == "ticked" else {"code0", "code1", "code2"})


def test_a_selection_is_acted_on_by_post_only(as_admin):
    assert as_admin.get("/outputs/selection/grade").status_code == 405
    assert as_admin.get("/outputs/selection/export").status_code == 405


def test_a_selection_leads_to_a_new_queue_drawn_from_it(as_reviewer, outputs):
    response = as_reviewer.post("/outputs/selection/queue", {"scope": "all", "query": "task=ideas&model=model-a"})
    assert parse_qs(urlsplit(response.url).query) == {"task": ["ideas"], "filter": ["model=model-a"]}
    ticked = as_reviewer.post("/outputs/selection/queue", {"scope": "ticked", "ids": [outputs[3].pk]})
    assert parse_qs(urlsplit(ticked.url).query) == {"filter": [f"ids={outputs[3].pk}"]}
