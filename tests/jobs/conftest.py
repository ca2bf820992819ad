"""A slow grader, and workers."""

import pytest

from graders import registry
from reviewapp.catalog.sync import save_grader
from tests.jobs.slow_grader import SlowGrader
from tests.jobs.workers import Worker
from tests.make import code_rubric, make_task


@pytest.fixture
def slow(db, monkeypatch):
    """The slow grader, known to this process too, and the task whose outputs it grades."""
    real = registry.all_graders()
    monkeypatch.setattr(registry, "all_graders", lambda: (*real, SlowGrader()))
    make_task("code", code_rubric(), output_format="python", graders=("slow",), primary_grader="slow")
    return save_grader("slow", "1", "code", SlowGrader.sha256)


@pytest.fixture
def start_worker(transactional_db):
    """Starts a worker and waits until it is ready; all are gone before the database is emptied."""
    workers = []

    def start(*, is_awaited=True):
        workers.append(Worker())
        return workers[-1].wait_ready() if is_awaited else workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()
