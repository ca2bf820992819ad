"""The job pages: they follow a job, stop asking when it has ended, and let people retry and cancel."""

import pytest
from django.urls import reverse

from reviewapp.jobs import queries
from reviewapp.jobs.queue import claim, enqueue, fail, finish
from reviewapp.models import Job
from tests.conftest import signed_in
from tests.jobs.slow_grader import slow_output
from tests.make import make_user

HTMX = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def job(slow):
    return enqueue("grade", output=slow_output(external_id="odd-one"), grader=slow)


def url(job, name="job"):
    return reverse(name, args=[job.pk])


def text(response):
    return response.content.decode()


def end(job, error=""):
    claimed = claim(job.pk, "one")
    return fail(claimed, claimed.lease_token, error) if error else finish(claimed, claimed.lease_token, lambda job: None)


def test_the_page_says_what_the_job_is_and_how_it_stands(job, as_viewer):
    page = text(as_viewer.get(url(job)))
    assert "odd-one" in page
    assert "Queued" in page
    assert "<html" in page
    assert f'href="/outputs/{job.output_id}/"' in page


def test_the_part_alone_answers_htmx_and_asks_again_while_the_job_is_open(job, as_viewer):
    response = as_viewer.get(url(job), **HTMX)
    assert response.status_code == 200
    assert text(response).strip().startswith('<section id="job"')
    assert 'hx-trigger="every 1s"' in text(response)


def test_on_the_review_page_the_part_does_not_lead_to_where_one_is(job, as_viewer):
    part = text(as_viewer.get(url(job), **HTMX, HTTP_HX_CURRENT_URL=f"http://testserver/outputs/{job.output_id}/"))
    assert "Open the output" not in part


def test_progress_shows_stage_and_bar(job, as_viewer):
    claim(job.pk, "one")
    Job.objects.update(stage="running the program", done_units=3, total_units=12)
    page = text(as_viewer.get(url(job), **HTMX))
    assert "running the program" in page
    assert '<progress max="12" value="3"' in page


def test_a_done_grading_stops_the_asking_and_tells_the_review_page(job, as_viewer):
    end(job)
    response = as_viewer.get(url(job), **HTMX)
    assert response.status_code == 286
    assert '"graded"' in response["HX-Trigger"]
    assert "every 1s" not in text(response)


def test_a_failed_job_shows_its_reason_and_can_be_tried_again(job, as_reviewer):
    end(job, "no sandbox")
    assert "no sandbox" in text(as_reviewer.get(url(job)))
    response = as_reviewer.post(url(job, "retry_job"))
    assert response.url == url(job)
    assert Job.objects.get(pk=job.pk).state == "queued"


def test_an_open_job_can_be_cancelled(job, as_reviewer):
    response = as_reviewer.post(url(job, "cancel_job"), **HTMX)
    assert "Cancelled" in text(response)
    assert Job.objects.get(pk=job.pk).state == "cancelled"


def test_a_job_that_waits_long_says_how_to_start_a_worker(job, as_viewer, monkeypatch):
    assert "make worker" not in text(as_viewer.get(url(job)))
    monkeypatch.setattr("reviewapp.jobs.views.SLOW_START_S", -1)
    assert "make worker" in text(as_viewer.get(url(job)))


@pytest.mark.parametrize("name", ["retry_job", "cancel_job"])
def test_viewers_change_nothing(job, as_viewer, name):
    assert as_viewer.post(url(job, name)).status_code == 403
    assert "<button" not in text(as_viewer.get(url(job), **HTMX))


def test_an_export_is_cancelled_by_who_started_it_or_an_admin(db, reviewer, as_reviewer, as_admin):
    other = signed_in(make_user("bob", role="reviewer"))
    export = enqueue("export", user=reviewer)
    assert other.post(url(export, "cancel_job")).status_code == 403
    assert as_admin.post(url(export, "cancel_job")).status_code == 302
    assert as_reviewer.post(url(export, "retry_job")).status_code == 302


def test_strangers_are_sent_to_sign_in(job, client):
    for name in ("job", "retry_job", "cancel_job"):
        assert client.post(url(job, name)).url.startswith("/login/")


def test_wrong_methods_are_405_and_missing_jobs_404(job, as_reviewer):
    assert as_reviewer.get(url(job, "retry_job")).status_code == 405
    assert as_reviewer.post(url(job)).status_code == 405
    assert as_reviewer.get("/jobs/4711/").status_code == 404


def test_the_grade_button_makes_one_job_however_often_it_is_pressed(slow, as_reviewer, reviewer):
    output = slow_output()
    address = reverse("grade_output", args=[output.pk])
    for _ in range(2):
        response = as_reviewer.post(address, {"grader": "slow"}, **HTMX)
        assert 'id="job"' in text(response)
    job = Job.objects.get()
    assert (job.output, job.grader, job.created_by) == (output, slow, reviewer)


def test_the_grade_button_without_javascript_leads_to_the_job(slow, as_reviewer):
    response = as_reviewer.post(reverse("grade_output", args=[slow_output().pk]), {"grader": "slow"})
    assert response.url == url(Job.objects.get())


def test_pressed_again_after_the_end_it_is_another_attempt(job, as_reviewer):
    end(job)
    as_reviewer.post(reverse("grade_output", args=[job.output_id]), {"grader": "slow"})
    assert sorted(Job.objects.values_list("attempt", "state")) == [(1, "done"), (2, "queued")]


def test_a_grader_of_another_task_is_refused_with_what_is_allowed(slow, as_reviewer):
    response = as_reviewer.post(reverse("grade_output", args=[slow_output().pk]), {"grader": "text_match"}, **HTMX)
    assert response.status_code == 422
    assert "grader is &#x27;text_match&#x27;, allowed for Code: slow" in text(response)
    assert Job.objects.count() == 0


def test_viewers_can_not_have_outputs_graded(slow, as_viewer):
    assert as_viewer.post(reverse("grade_output", args=[slow_output().pk]), {"grader": "slow"}).status_code == 403


def test_the_list_counts_filters_and_pages(slow, as_viewer, django_assert_max_num_queries):
    jobs = [enqueue("grade", output=slow_output(), grader=slow) for _ in range(queries.PAGE + 3)]
    end(jobs[0], "no sandbox")
    with django_assert_max_num_queries(5):
        page = text(as_viewer.get("/jobs/"))
    assert f'Failed <span class="count">{1}</span>' in page
    assert f"before={jobs[3].pk}" in page
    older = text(as_viewer.get(f"/jobs/?before={jobs[3].pk}"))
    assert older.count("<tr>") == 1 + 3
    assert text(as_viewer.get("/jobs/?state=failed")).count("<tr>") == 1 + 1
    assert text(as_viewer.get("/jobs/?grader=slow@2")).count("<tr>") == 0


@pytest.mark.parametrize("query", ["state=odd", "before=x"])
def test_a_bad_filter_is_400(db, as_viewer, query):
    assert as_viewer.get(f"/jobs/?{query}").status_code == 400


def test_an_empty_list_says_what_would_be_there(as_viewer):
    assert "No jobs yet" in text(as_viewer.get("/jobs/"))


def test_the_home_part_follows_open_jobs_and_stops_without(job, as_viewer, django_assert_max_num_queries):
    with django_assert_max_num_queries(4):
        response = as_viewer.get("/jobs/running/", **HTMX)
    assert "0 running, 1 waiting" in text(response)
    end(job)
    assert as_viewer.get("/jobs/running/", **HTMX).status_code == 286
    assert as_viewer.get("/jobs/running/").url == "/jobs/"
