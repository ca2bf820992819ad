"""With real workers: a grading is done once, whatever happens to the worker or the broker."""

import time
import pytest

from reviewapp.jobs.queue import enqueue
from reviewapp.models import Grade, Job
from tests.jobs.conftest import slow_output
from tests.jobs.workers import wait_for, wait_until_ended

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


def test_a_grading_goes_from_queued_over_running_to_done(slow, start_worker):
    worker = start_worker().wait_ready()
    time.sleep(1)
    job = enqueue("grade", output=slow_output("sleep 1.2"), grader=slow)
    assert job.state == "queued"
    began = time.monotonic()
    wait_for(lambda: Job.objects.get(pk=job.pk).state == "running", 1, worker.text)
    print("started after", time.monotonic() - began)
    wait_for(lambda: Job.objects.get(pk=job.pk).stage == "running the program", 2, worker.text)
    wait_until_ended(5, worker.text)
    job.refresh_from_db()
    assert (job.state, job.claims, job.grade.passed) == ("done", 1, True)


@pytest.mark.parametrize("how", ["TERM", "INT"])
def test_a_worker_that_is_asked_to_stop_hands_its_jobs_back(slow, start_worker, how):
    import os, signal
    worker = start_worker().wait_ready()
    jobs = [enqueue("grade", output=slow_output("hang"), grader=slow) for _ in range(5)]
    wait_for(lambda: Job.objects.filter(state="running").count() == 2, 5, worker.text)
    t=time.monotonic();
    if how=="INT": os.killpg(worker.process.pid, signal.SIGINT)
    try: rc=worker.stop() if how=="TERM" else worker.process.wait(15)
    finally: print(worker.text()); print(list(Job.objects.values("pk","state","claims","woken_at")))
    print("stop", rc, time.monotonic()-t); 
    from django.conf import settings
    os.system(f"find {settings.BROKER_DIR} -type f")
