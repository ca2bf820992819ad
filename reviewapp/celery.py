"""The Celery app. Queues: grade-cpu, grade-gpu, judge, rollout, export."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reviewapp.settings")

QUEUES = ("grade-cpu", "grade-gpu", "judge", "rollout", "export")

app = Celery("touchstone")
app.config_from_object("django.conf:settings", namespace="CELERY")
