"""Settings of the test run: everything in a folder of its own, the engines from the environment."""

import os
import tempfile

# The worker and server processes that tests start inherit it.
os.environ.setdefault("DATA_DIR", tempfile.mkdtemp(prefix="touchstone-tests-"))
os.environ.setdefault("DEMO", "1")

from reviewapp.settings import *  # noqa: E402, F403
from reviewapp.settings import DATA_DIR, DATABASES  # noqa: E402

DEMO = False
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, so that the processes which tests start see the same database.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
