"""What every test may use. Factories are functions, in tests/make.py."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.db import connections, transaction
from django.test import Client, TransactionTestCase
from hypothesis import HealthCheck, settings

from reviewapp.models.append_only import install_triggers, remove_triggers
from tests.make import make_user

# A machine that does other work is slow to draw examples, which says nothing of the tests.
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("suite")

# What migrations have put in the database.
KEPT = ("django_migrations", "django_content_type", "auth_permission")
# Modules that grade with the same warm process, which takes some seconds to import torch, or that import other large libraries:
# they go to one test process.
TOGETHER = {
    "graders/test_neural": "neural memory", "graders/test_samples": "neural memory", "graders/test_fsdp": "fsdp",
    "graders/test_memory_optimization": "training", "graders/test_fsdp_attacks": "training", "graders/calibration": "other libraries",
}  # fmt: skip
# The longest first, so that no process is left with one at the end.
LONG = (
    "jobs/test_worker", "graders/test_fsdp_stopped", "graders/test_neural_causes", "graders/test_memory_optimization",
    "browser/test_reviewing", "graders/test_attacks", "browser/test_calibration", "rewards/test_two_writers",
    "calibration/test_page", "graders/test_sandbox", "graders/calibration/test_coverage", "interchange/test_import_properties",
    "browser/test_hostile_outputs", "graders/test_live_judge", "jobs/test_judging", "outputs/test_paging", "calibration/test_labels",
    "outputs/test_filters", "browser/test_outputs_list", "calibration/test_study", "test_architecture", "outputs/test_search",
    "browser/test_main_job", "queues/test_gold", "queues/test_queues", "outputs/test_page", "api/test_reward",
    "calibration/test_published_figures", "runs/test_graded", "browser/test_frame", "tasks/test_agent", "judges/test_money",
    "calibration/test_compare_page",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As --dist loadfile does it, but what stands TOGETHER is not parted."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByWarmProcess(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            found = [name for name in TOGETHER if file.removeprefix("tests/").startswith(name)]
            return TOGETHER[max(found, key=len)] if found else file

    return ByWarmProcess(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0].removeprefix("tests/").removesuffix(".py"), len(LONG)))


def _empty_the_database(case: TransactionTestCase) -> None:
    """Between transactional tests: only the tables that hold rows are emptied, which the append-only triggers would refuse."""
    connection = connections["default"]
    tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - set(KEPT)
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {table})" for table in sorted(tables)))
        filled = [table for (table,) in cursor.fetchall()]
    if not filled:
        return
    remove_triggers(connection)
    try:
        with connection.constraint_checks_disabled(), transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET LOCAL session_replication_role = replica")  # no foreign keys are looked at
            for table in filled:
                cursor.execute(f"DELETE FROM {table}")
            if connection.vendor == "sqlite":  # ids may begin anew, which the search index counts on never to happen
                cursor.execute("INSERT INTO reviewapp_search (reviewapp_search) VALUES ('delete-all')")
                cursor.execute("UPDATE reviewapp_searchmark SET indexed_to = 0")
    finally:
        install_triggers(connection)


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
