"""What every test may use. Factories are functions, in tests/make.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.cache import cache
from django.db import connections
from django.test import Client, TransactionTestCase
from hypothesis import HealthCheck, settings

from reviewapp.models.append_only import install_triggers, remove_triggers
from tests.make import make_user

# A machine that does other work is slow to draw examples, which says nothing of the tests.
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("suite")

_teardown: Callable[[TransactionTestCase], None] = TransactionTestCase._fixture_teardown


def _empty_the_database(case: TransactionTestCase) -> None:
    """Between transactional tests the tables are emptied, which the append-only triggers would refuse."""
    remove_triggers(connections["default"])
    try:
        _teardown(case)
    finally:
        install_triggers(connections["default"])


TransactionTestCase._fixture_teardown = _empty_the_database


@pytest.fixture(autouse=True)
def empty_cache():
    """Each test has a database of its own, whose ids begin anew."""
    cache.clear()


@pytest.fixture
def reviewer(db):
    return make_user("ana", role="reviewer")


@pytest.fixture
def admin(db):
    """An admin who sees the judges in lists."""
    user = make_user("root", role="admin")
    user.show_judges(True)
    return user


@pytest.fixture
def viewer(db):
    return make_user("vera", role="viewer")


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def as_reviewer(reviewer) -> Client:
    return signed_in(reviewer)


@pytest.fixture
def as_admin(admin) -> Client:
    return signed_in(admin)


@pytest.fixture
def as_viewer(viewer) -> Client:
    return signed_in(viewer)
