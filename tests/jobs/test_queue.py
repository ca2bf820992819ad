"""A job is claimed by one worker at a time, and what it writes is written once."""

import threading
from datetime import timedelta

import pytest
from celery import current_app
from django.db import connection
from django.utils import timezone

from reviewapp.jobs import queue
from reviewapp.jobs.queue import cancel, claim, enqueue, fail, finish, hand_back, retry, sweep
from reviewapp.models import Job
from tests.make import make_grader, make_output


@pytest.fixture
def job(db):
    return enqueue("grade", output=make_output(), grader=make_grader())


def let_lease_run_out(job):
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def state_of(job):
    job.refresh_from_db()
    return job.state


def write_nothing(job):
    return {}


def test_the_same_grading_asked_for_twice_is_one_job(job):
    again = enqueue("grade", output=job.output, grader=job.grader)
    assert again.pk == job.pk
    assert Job.objects.count() == 1


def test_a_second_attempt_is_a_job_of_its_own(job):
    assert enqueue("grade", output=job.output, grader=job.grader, attempt=2).pk != job.pk


def test_a_grading_without_a_grader_is_refused(job):
    with pytest.raises(ValueError, match="needs an output and a grader"):
        enqueue("grade", output=job.output)


def test_a_claimed_job_is_not_free(job):
    assert claim(job.pk, "one").state == "running"
    assert claim(job.pk, "two") is None


def test_a_job_that_is_gone_is_not_free(db):
    assert claim(4711, "one") is None


def test_a_job_is_free_again_when_its_lease_has_run_out(job):
    first = claim(job.pk, "one")
    let_lease_run_out(job)
    second = claim(job.pk, "two")
    assert second.claims == 2
    assert second.lease_token != first.lease_token


def test_who_lost_the_lease_writes_nothing(job):
    first = claim(job.pk, "one")
    let_lease_run_out(job)
    second = claim(job.pk, "two")
    written = []
    assert finish(first, first.lease_token, written.append) is False
    assert fail(first, first.lease_token, "no") is False
    assert hand_back(first, first.lease_token) is False
    assert written == []
    assert finish(second, second.lease_token, write_nothing) is True
    assert state_of(job) == "done"


def test_a_late_worker_whose_lease_nobody_took_may_still_finish(job):
    claimed = claim(job.pk, "one")
    let_lease_run_out(job)
    assert finish(claimed, claimed.lease_token, lambda job: {"answer": 42}) is True
    job.refresh_from_db()
    assert (job.state, job.result) == ("done", {"answer": 42})


def test_a_job_is_not_done_when_its_result_could_not_be_written(job):
    claimed = claim(job.pk, "one")

    def write(job):
        make_output(external_id="half-written")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finish(claimed, claimed.lease_token, write)
    assert state_of(job) == "running"
    assert not Job.objects.filter(output__external_id="half-written").exists()


def test_a_cancelled_job_takes_no_result(job):
    claimed = claim(job.pk, "one")
    assert cancel(job) is True
    assert finish(claimed, claimed.lease_token, write_nothing) is False
    assert state_of(job) == "cancelled"
    assert cancel(job) is False


def test_a_failed_job_that_is_asked_for_again_starts_again(job):
    claimed = claim(job.pk, "one")
    fail(claimed, claimed.lease_token, "no sandbox")
    again = enqueue("grade", output=job.output, grader=job.grader)
    assert (again.pk, again.state, again.error, again.claims) == (job.pk, "queued", "", 0)


def test_a_done_job_is_not_tried_again(job):
    claimed = claim(job.pk, "one")
    finish(claimed, claimed.lease_token, write_nothing)
    assert retry(job) is False
    assert enqueue("grade", output=job.output, grader=job.grader).state == "done"


def test_handing_a_job_back_on_a_clean_stop_costs_no_claim(job):
    claimed = claim(job.pk, "one")
    assert hand_back(claimed, claimed.lease_token) is True
    assert (state_of(job), job.claims) == ("queued", 0)


def test_a_job_that_ended_no_claim_is_given_up_and_says_why(job):
    Job.objects.update(max_claims=2)
    for worker in ("one", "two"):
        assert claim(job.pk, worker)
        let_lease_run_out(job)
    assert claim(job.pk, "three") is None
    assert sweep()["gave_up"] == 1
    assert state_of(job) == "failed"
    assert job.error.startswith("Given up after 2 tries: each time the worker stopped before the end")
    assert "started on two" in job.error


def test_a_job_in_work_is_left_alone_by_the_sweeper(job):
    Job.objects.update(max_claims=1)
    claim(job.pk, "one")
    assert sweep() == {"gave_up": 0, "woken": 0}
    assert state_of(job) == "running"


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_that_try_at_once_one_gets_the_job():
    job = enqueue("grade", output=make_output(), grader=make_grader())
    start, won = threading.Barrier(8), []

    def try_it(number):
        try:
            start.wait()
            if claimed := claim(job.pk, f"worker {number}"):
                won.append(claimed)
        finally:
            connection.close()

    threads = [threading.Thread(target=try_it, args=[n]) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1
    assert (state_of(job), job.claims) == ("running", 1)


@pytest.mark.django_db(transaction=True)
def test_two_workers_that_finish_at_once_write_one_result():
    job = claim(enqueue("grade", output=make_output(), grader=make_grader()).pk, "one")
    start, ended, written = threading.Barrier(4), [], []

    def try_it(number):
        try:
            start.wait()
            ended.append(finish(Job.objects.get(pk=job.pk), job.lease_token, lambda job: written.append(number)))
        finally:
            connection.close()

    threads = [threading.Thread(target=try_it, args=[n]) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(ended) == [False, False, False, True]
    assert len(written) == 1


def test_many_gradings_are_asked_for_in_few_queries(db, django_assert_max_num_queries):
    outputs = [make_output() for _ in range(60)]
    grader = make_grader()
    with django_assert_max_num_queries(12):
        asked = queue.enqueue_gradings([output.pk for output in outputs], grader)
    assert len(asked.new) == 60
    again = queue.enqueue_gradings([output.pk for output in outputs], grader)
    assert sorted(again.open) == sorted(asked.new)


def test_gradings_of_graders_that_use_a_gpu_wait_for_a_worker_that_has_one(db, settings):
    settings.GPU_GRADERS = ["memory_optimization"]
    made = [enqueue("grade", output=make_output(), grader=make_grader(name, kind="code")) for name in ("memory_optimization", "text_match")]
    assert [job.queue for job in made] == ["grade-gpu", ""]
    Job.objects.update(woken_at=None)
    current_app.control.purge()  # what other tests have left waiting takes the room of these two
    assert sweep()["woken"] == 2


def test_only_what_stopped_is_queued_again_and_again_means_a_new_attempt(db):
    grader = make_grader()
    jobs = [enqueue("grade", output=make_output(), grader=grader) for _ in range(3)]
    done, failed, _ = (claim(job.pk, "one") for job in jobs)
    finish(done, done.lease_token, write_nothing)
    fail(failed, failed.lease_token, "no sandbox")
    outputs = [job.output_id for job in jobs]
    asked = queue.enqueue_gradings(outputs, grader)
    assert (asked.done, asked.retried, asked.open, asked.new) == ([done.pk], [failed.pk], [jobs[2].pk], [])
    again = queue.enqueue_gradings(outputs, grader, again=True)
    assert list(Job.objects.filter(pk__in=again.new).values_list("output_id", "attempt")) == [(done.output_id, 2)]
