"""The Celery app of the workers that tests start: the real one, and the slow grader."""

import django

from reviewapp.celery import app

django.setup()

from tests.jobs.slow_grader import register  # it needs the models

register()

__all__ = ["app"]
