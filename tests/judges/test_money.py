"""The spending limit of a run holds for all processes that work on it, also when one of them is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from graders import registry
from llm.errors import BudgetSpent
from reviewapp.catalog.sync import save_plain_grader
from reviewapp.jobs import batch
from reviewapp.judges.money import DatabaseLedger
from reviewapp.models import Job, LlmCall, SpendingHold
from reviewapp.runs.start import start_gradings
from tests.jobs.judged import judges, make_ideas
from tests.jobs.workers import database_url, wait_for
from tests.messages_api import Hangs, MessagesApi

PRICES = '{"m": {"input": 0, "output": 1000}}'  # $0.001 a token of an answer
MAX_TOKENS = 500  # so a call is feared to cost $0.50; it costs $0.135

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def api(monkeypatch, tmp_path):
    with MessagesApi(otherwise=judges(wait_s=0.15)) as server:
        told = {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "mine", "LLM_PRICES": PRICES, "DATA_DIR": str(tmp_path)}
        told |= {"JUDGE_MODEL": "m", "JUDGE_VOTES": "1", "JUDGE_MAX_TOKENS": str(MAX_TOKENS), "LLM_STRUCTURE": "text", "LLM_ATTEMPTS": "1"}
        for name, value in {**told, "JUDGE_THINKING": "0", "JUDGE_EFFORT": "none"}.items():
            monkeypatch.setenv(name, value)
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        registry.all_graders.cache_clear()
        yield server
        settings.DATA_DIR = settings_dir
    registry.all_graders.cache_clear()


def start(n, limit_usd):
    outputs = [output.pk for output in make_ideas(n)]
    judge = save_plain_grader(registry.get("judge"))
    run, _ = start_gradings(judge, outputs, title="A run", limit_usd=limit_usd)
    return run, list(run.jobs.order_by("pk").values_list("pk", flat=True))


@contextmanager
def other_process(jobs, tmp_path, **env):
    """As on another machine: it shares the database alone, and asks under another key."""
    told = {"TOUCHSTONE_TEST_DIR": str(tmp_path / "other"), "DATABASE_URL": database_url(), "ANTHROPIC_API_KEY": "other"}
    told |= {"SECRET_KEY": settings.SECRET_KEY, **env}
    command = [sys.executable, "-m", "tests.judges.spender", ",".join(map(str, jobs))]
    with subprocess.Popen(command, cwd=settings.BASE_DIR, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def asked_by(api, who):
    return sum(asked.headers["authorization"] == f"Bearer {who}" for asked in api.asked)


def test_two_processes_keep_to_the_limit_of_a_run_together_also_when_one_is_killed(api, tmp_path):
    run, jobs = start(24, limit_usd=3.1)
    # The other process gets four answers and waits for four more, for which it sets 4 x $0.50 aside.
    api.otherwise = lambda body: Hangs() if asked_by(api, "mine") == 0 and asked_by(api, "other") > 4 else judges()(body)
    at_the_kill = []

    def kill(process):
        wait_for(lambda: asked_by(api, "mine") == 1, 60)
        time.sleep(1)
        at_the_kill.append(asked_by(api, "mine"))
        process.kill()

    with other_process(jobs, tmp_path, JOB_LEASE_S="6", LLM_IN_FLIGHT="4") as other:
        wait_for(lambda: SpendingHold.objects.count() == 4 and LlmCall.objects.count() == 4, 60)
        killer = threading.Thread(target=kill, args=[other])
        killer.start()
        batch.work_here(jobs, lambda counts: None)
        killer.join()
    assert at_the_kill == [1]  # there was money for one call, with what the other had set aside
    costs, lost = LlmCall.objects.values_list("cost_usd", flat=True), SpendingHold.objects.values_list("usd", "is_lost")
    assert sum(costs) == pytest.approx(api.usage.output / 1000)
    assert list(lost) == [(pytest.approx(0.135, rel=0.02), True)] * 4  # as the finished calls cost on average
    assert 2.6 < sum(costs) + sum(usd for usd, _ in lost) <= 3.1
    assert len(costs) == run.jobs.filter(state="done").count() == 16
    assert all("spending limit of $3.10" in error for error in run.jobs.filter(state="failed").values_list("error", flat=True))


def test_a_call_waits_for_money_that_another_process_may_give_back_and_fails_when_none_can(api):
    job = Job.objects.create(kind="grade", state="running", lease_token="other", lease_until=timezone.now() + timezone.timedelta(minutes=1))
    mine, other = DatabaseLedger("run 1", "mine"), DatabaseLedger("run 1", "other")
    assert other.hold("a", 0.7, 1.0)
    assert not mine.hold("b", 0.7, 1.0)
    assert DatabaseLedger("run 2", "mine").hold("c", 0.7, 1.0)
    other.settle("a", is_known=True)
    assert mine.hold("b", 0.7, 1.0)
    with pytest.raises(BudgetSpent, match=r"spending limit of \$1.00: \$0.0000 is spent, and the next call may use \$1.1000"):
        mine.hold("d", 1.1, 1.0)
    assert job.is_open


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time: no call ends between two of its reads")
def test_a_call_that_ends_while_its_money_is_looked_up_is_not_overlooked(api):
    other, mine = DatabaseLedger("run 1", "other"), DatabaseLedger("run 1", "mine")
    assert other.hold("a", 0.7, 1.0)
    Job.objects.create(kind="grade", state="running", lease_token="other", lease_until=timezone.now() + timezone.timedelta(minutes=1))
    ended = []

    def end_of_call():
        LlmCall.objects.create(scope="run 1", model="m", reply={}, cost_usd=0.7)
        other.settle("a", is_known=True)
        connection.close()

    def after_the_first_sum(execute, sql, params, many, context):
        found = execute(sql, params, many, context)
        if "SUM(" in sql and not ended:
            ended.append(threading.Thread(target=end_of_call))
            ended[0].start()
            ended[0].join()
        return found

    with connection.execute_wrapper(after_the_first_sum), pytest.raises(BudgetSpent, match=r"\$0.7000 is spent"):
        mine.hold("b", 0.2, 0.8)


def test_a_call_that_was_broken_off_counts_until_the_limit_is_raised(api):
    ledger = DatabaseLedger("run 1", "mine")
    ledger.hold("a", 0.7, 1.0)
    ledger.settle("a", is_known=False)
    with pytest.raises(BudgetSpent, match=r"\$0.7000 is spent \(\$0.7000 of it a guess, for calls that were broken off\)"):
        ledger.hold("b", 0.7, 1.0)
    assert ledger.hold("b", 0.7, 2.0)
