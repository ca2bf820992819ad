"""Real Celery workers for tests, on the test database and the broker of the environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import current_app
from django.conf import settings
from django.db import connection
from kombu import pools

from reviewapp.models import Job

LEASE_S, SWEEP_S = 2, 0.5


def database_url() -> str:
    """The test database, which the settings of another process would not find by themselves."""
    facts = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{facts['NAME']}"
    return f"postgres://{facts['USER']}:{facts['PASSWORD']}@{facts['HOST']}:{facts['PORT']}/{facts['NAME']}"


class Worker:
    """A worker with an embedded beat, in a process group of its own."""

    _number = 0

    def __init__(self) -> None:
        Worker._number += 1
        self.folder = Path(settings.DATA_DIR)
        self.log = self.folder / f"worker-{Worker._number}.log"
        options = ["--concurrency=2", "-B", f"--schedule={self.folder}/beat-{Worker._number}", "-n", f"worker{Worker._number}@test"]
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": database_url(),
            "CELERY_BROKER_URL": settings.CELERY_BROKER_URL,
            "JOB_LEASE_S": str(LEASE_S),
            "JOB_SWEEP_S": str(SWEEP_S),
            "JOB_STOP_S": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.jobs.slow_worker", "worker", "--loglevel=info", *options],
            env=env,
            cwd=settings.BASE_DIR,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_ready(self) -> Worker:
        wait_for(lambda: " ready." in self.text() or self.process.poll() is not None, 30, self.text)
        assert self.process.poll() is None, self.text()
        return self

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """As the kernel does when memory runs out: the whole group, with no word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop, as an init system does; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def wait_for(is_so: Callable[[], bool], seconds: float, why_not: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {seconds} s: {why_not()[-6000:]}"
        time.sleep(0.05)


def wait_until_ended(seconds: float, why_not: Callable[[], str] = lambda: "") -> None:
    """Until no job is open."""
    left = Job.objects.filter(state__in=("queued", "running"))
    wait_for(lambda: not left.exists(), seconds, lambda: f"{list(left.values('pk', 'state', 'claims', 'stage'))}\n{why_not()}")


@contextmanager
def broker_down() -> Iterator[None]:
    """In this process, the broker's address leads to a port where nothing listens."""
    conf = current_app.conf
    before = conf.broker_write_url
    options, conf.broker_transport_options = conf.broker_transport_options, {"max_retries": 0, "socket_connect_timeout": 2}
    conf.broker_write_url = "redis://127.0.0.1:9/0"
    _forget_connections()
    try:
        yield
    finally:
        conf.broker_write_url, conf.broker_transport_options = before, options
        _forget_connections()


def _forget_connections() -> None:
    pools.reset()
    current_app._pool = current_app.amqp._producer_pool = None
