"""With real workers: each grading is done once, whatever happens to its worker or to the broker."""

import os
import random
import signal
import time

import pytest
from celery import current_app
from django.conf import settings
from django.db.models import Count, Max

from reviewapp.jobs.queue import enqueue, enqueue_gradings
from reviewapp.models import Grade, Job, Output
from tests.jobs.slow_grader import slow_output
from tests.jobs.workers import broker_down, wait_for, wait_until_ended

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


def grades_per_output():
    return set(Output.objects.annotate(n=Count("grades")).values_list("n", flat=True))


def test_a_grading_starts_at_once_and_shows_how_far_it_is(slow, start_worker):
    worker = start_worker()
    job = enqueue("grade", output=slow_output("sleep 2"), grader=slow)
    assert job.state == "queued"
    wait_for(lambda: Job.objects.get(pk=job.pk).state == "running", 3, worker.text)
    wait_for(lambda: Job.objects.get(pk=job.pk).stage == "running the program", 5, worker.text)
    wait_until_ended(30, worker.text)
    job.refresh_from_db()
    assert (job.state, job.claims, job.grade.passed, job.stage) == ("done", 1, True, "")


def test_workers_killed_at_random_moments_lose_nothing_and_grade_nothing_twice(slow, start_worker):
    chance = random.Random(int(os.environ.get("KILL_SEED", "7")))
    outputs = [slow_output("sleep 0.15") for _ in range(100)]
    jobs = enqueue_gradings([output.pk for output in outputs], slow).to_do
    Job.objects.update(max_claims=50)
    for _ in range(5):
        worker = start_worker()
        time.sleep(chance.uniform(0.1, 1.0))
        worker.kill()
    survivors = [start_worker(is_awaited=False), start_worker(is_awaited=False)]
    wait_until_ended(90, lambda: survivors[0].text() + survivors[1].text())
    assert set(Job.objects.filter(pk__in=jobs).values_list("state", flat=True)) == {"done"}
    assert grades_per_output() == {1}
    assert Job.objects.filter(grade__isnull=True).count() == 0
    assert Job.objects.aggregate(most=Max("claims"))["most"] > 1, "no kill hit a grading: the test showed nothing"


def test_a_grading_that_kills_its_worker_is_given_up_and_the_others_go_on(slow, start_worker):
    poisoned = enqueue("grade", output=slow_output("die"), grader=slow)
    Job.objects.update(max_claims=2)
    others = [enqueue("grade", output=slow_output(), grader=slow) for _ in range(3)]
    worker = start_worker()
    wait_until_ended(60, worker.text)
    poisoned.refresh_from_db()
    assert poisoned.state == "failed"
    assert "Given up after 2 tries" in poisoned.error
    assert {Job.objects.get(pk=job.pk).state for job in others} == {"done"}
    assert Grade.objects.count() == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_stop_hands_its_jobs_back(slow, start_worker, number):
    jobs = [enqueue("grade", output=slow_output("hang"), grader=slow) for _ in range(3)]
    worker = start_worker()
    wait_for(lambda: Job.objects.filter(state="running").count() == 2, 15, worker.text)
    os.killpg(worker.process.pid, number)  # the whole group, as Ctrl-C does
    wait_for(lambda: worker.process.poll() is not None, 15, worker.text)
    found = Job.objects.filter(pk__in=[job.pk for job in jobs])
    assert set(found.values_list("state", "claims", "lease_token")) == {("queued", 0, "")}, worker.text()
    assert "Traceback" not in worker.text()


def test_a_grading_asked_for_while_the_broker_is_down_is_done_later(slow, start_worker, caplog):
    began = time.monotonic()
    with broker_down():
        job = enqueue("grade", output=slow_output(), grader=slow)
    assert time.monotonic() - began < 3
    assert "the broker can't be reached" in caplog.text
    worker = start_worker()
    wait_until_ended(30, worker.text)
    assert Job.objects.get(pk=job.pk).state == "done"


def test_messages_that_are_lost_or_sent_twice_do_no_harm(slow, start_worker):
    jobs = enqueue_gradings([slow_output().pk for _ in range(6)], slow).to_do
    current_app.control.purge()
    for job in jobs[:3] * 5:
        current_app.send_task("jobs.wake", args=[job], queue="grade-cpu")
    current_app.send_task("jobs.wake", args=[4711], queue="grade-cpu")
    first, second = start_worker(is_awaited=False), start_worker(is_awaited=False)
    wait_until_ended(60, lambda: first.text() + second.text())
    assert set(Job.objects.values_list("state", "claims")) == {("done", 1)}
    assert grades_per_output() == {1}


@pytest.mark.skipif(settings.CELERY_BROKER_URL != "filesystem://", reason="about the embedded broker")
def test_the_embedded_broker_holds_no_files_once_the_work_is_done(slow, start_worker):
    worker = start_worker()
    enqueue_gradings([slow_output().pk for _ in range(8)], slow)
    wait_until_ended(40, worker.text)
    wait_for(lambda: len(list(settings.BROKER_DIR.glob("grade-cpu/*"))) == 0, 15)
    worker.stop()
    left = [path.parent.name for path in settings.BROKER_DIR.glob("*/*")]
    assert set(left) <= {"export"}, "what the beat sent while the worker stopped, and nothing else"
    assert len(left) < 20
