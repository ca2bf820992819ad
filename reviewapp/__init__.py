"""Who decides, and what comes out: the Django project."""

from reviewapp.celery import app as celery_app

__all__ = ["celery_app"]
