"""Who decides, and what comes out: the Django project."""

import os

# Before numpy is imported. A process of ours answers one request or does one job at a time on one core; threads of the
# linear algebra library, one a core, wait for each other when there are more of them than cores, up to ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from reviewapp.celery import app as celery_app

__version__ = "0.1.0"
__all__ = ["celery_app"]
