"""Settings of the test run: everything in a folder of its own, the engines from the environment."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# The worker and server processes that tests start inherit these. Each parallel test process has its own.
_part = os.environ.get("PYTEST_XDIST_WORKER", "main")
if "TOUCHSTONE_TEST_DIR" not in os.environ:
    os.environ["TOUCHSTONE_TEST_DIR"] = tempfile.mkdtemp(prefix="touchstone-tests-")
    _maker = os.getpid()
    atexit.register(lambda: os.getpid() == _maker and shutil.rmtree(os.environ["TOUCHSTONE_TEST_DIR"], ignore_errors=True))
os.environ["DATA_DIR"] = str(Path(os.environ["TOUCHSTONE_TEST_DIR"]) / _part)
os.environ.setdefault("DEMO", "1")
os.environ["LITERATURE_NETWORK"] = "off"  # tests that look papers up have servers of their own
if os.environ.get("CELERY_BROKER_URL", "").startswith("redis://"):
    _server = os.environ["CELERY_BROKER_URL"].rpartition("/")[0]
    os.environ["CELERY_BROKER_URL"] = f"{_server}/{1 + int(_part.removeprefix('gw')) if _part != 'main' else 0}"

from reviewapp.settings import *  # noqa: F403
from reviewapp.settings import DATA_DIR, DATABASES

DEMO = False
WHITENOISE_AUTOREFRESH = True  # else each client of a test begins with a walk over all static files
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, so that the processes which tests start see the same database.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
