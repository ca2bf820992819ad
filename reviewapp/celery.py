"""The Celery app. Its messages only wake workers up; what there is to do stands in the job table (jobs/queue.py)."""

import os

from celery import Celery
from kombu import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reviewapp.settings")

QUEUES = ("grade-cpu", "grade-gpu", "judge", "rollout", "export")

# In place of kombu's own, which loses messages and ends the worker when it does (docs/jobs.md).
TRANSPORT_ALIASES["filesystem"] = "reviewapp.jobs.broker:Transport"

app = Celery("touchstone")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.task_queues = [Queue(name, Exchange(name), routing_key=name) for name in QUEUES]
app.autodiscover_tasks(["reviewapp.jobs", "reviewapp.outputs", "reviewapp.judges"], related_name="celery_jobs")
