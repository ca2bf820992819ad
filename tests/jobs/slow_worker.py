"""The Celery app of the worker that tests start: the real one, with a slow grader that tests can name."""

from reviewapp.celery import app
from tests.jobs.slow_grader import register

register()

__all__ = ["app"]
