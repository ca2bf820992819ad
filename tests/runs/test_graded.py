"""Rollouts are graded as they end, where the run asks for it: no second step, nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from graders import registry
from reviewapp.catalog.sync import save_plain_grader, save_task
from reviewapp.jobs import batch, queue
from reviewapp.models import Grade, Job, LlmCall, Output, Run
from reviewapp.runs.start import start_rollouts
from tasks.task import SHIPPED_TASKS, load_task
from tests.jobs.judged import judges, make_idea_task
from tests.jobs.workers import database_url, wait_for
from tests.llm.calling import MODEL
from tests.messages_api import MessagesApi, Says

IDEA = "# Idea\n\nWe observed that probes fail. A cheap test comes first.\n"
CODE = "```python\nclass NeuralMemory:\n    pass\n```"

pytestmark = pytest.mark.django_db(transaction=True)


def works_and_judges(idea=IDEA, wait_s=0.0, **said):
    """The server is both the agent and its judge, whose requests have a system prompt."""
    return lambda body: judges(8, wait_s=wait_s)(body) if body.get("system") else Says(idea, wait_s=wait_s, **said)


@pytest.fixture
def api(monkeypatch, tmp_path):
    with MessagesApi(otherwise=works_and_judges()) as server:
        for name, value in {"ANTHROPIC_BASE_URL": server.url, "JUDGE_VOTES": "1", "DATA_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        registry.all_graders.cache_clear()
        yield server
        settings.DATA_DIR = settings_dir
    registry.all_graders.cache_clear()


@pytest.fixture
def rollout(api, capsys):
    """Runs the command on one task; gives (exit code, its JSON)."""

    def rollout(*more, task="idea_proposal", n=3):
        variant = save_task(load_task(SHIPPED_TASKS / task)).variants.filter(is_current=True).first().name
        code = 0
        try:
            call_command("rollout", "--task", task, "--variant", variant, "--model", MODEL, "--n", str(n), "--here", "--json", *more)
        except SystemExit as error:
            code = error.code
        return code, json.loads(capsys.readouterr().out)

    return rollout


def test_outputs_are_graded_by_a_judge_and_the_pass_rates_fill_by_themselves(rollout, api, as_viewer):
    code, told = rollout("--grader", "judge")
    assert (code, len(told["outputs"]), told["graded"], told["failed"]) == (0, 3, 3, [])
    assert (told["calls"], told["tokens"]) == (6, api.usage.total)
    assert set(Job.objects.values_list("kind", "queue", "run")) == {("rollout", "rollout", told["run"]), ("grade", "judge", told["run"])}
    figures = as_viewer.get("/runs/ablations.json?task=idea_proposal").json()
    assert figures["groups"][0]["rate"]["value"] == 1.0
    page = as_viewer.get(f"/runs/{told['run']}/").content.decode()
    assert '<strong class="num">3</strong> of <span class="num">3</span> gradings' in page


def test_outputs_are_graded_by_a_code_grader_in_its_own_queue(rollout, api):
    api.otherwise = works_and_judges(CODE)
    code, told = rollout("--grader", "text_match", task="neural_memory", n=2)
    assert (code, told["graded"], told["graders"]) == (0, 2, [f"text_match@{registry.get('text_match').version}"])
    assert set(Job.objects.filter(kind="grade").values_list("queue", "state")) == {("", "done")}
    assert Grade.objects.filter(passed=False).count() == 2


def test_without_a_grader_nothing_is_graded_and_asked_for_later_what_is_there_is(rollout):
    first = rollout()[1]
    assert (first["graded"], Grade.objects.count()) == (0, 0)
    second = rollout("--grader", "judge", n=4)[1]
    assert (second["run"], second["graded"], Output.objects.count(), LlmCall.objects.count()) == (first["run"], 4, 4, 8)
    assert rollout("--grader", "judge", n=4)[1]["graded"] == 4
    assert LlmCall.objects.count() == 8


def test_an_output_without_content_is_not_graded(rollout, api):
    api.otherwise = works_and_judges("No.", stop_reason="refusal")
    code, told = rollout("--grader", "judge", n=1)
    assert (code, len(told["outputs"]), told["graded"], told["failed"]) == (0, 1, 0, [])


def test_gradings_are_paid_within_the_limit_of_the_run(rollout, api):
    code, told = rollout("--grader", "judge", "--answer-tokens", "500", "--limit-usd", "0.2", n=1)  # the judge may use 16,000
    assert (code, len(told["outputs"]), told["graded"]) == (3, 1, 0)
    (failed,) = told["failed"]
    assert "graded by judge" in failed["unit"] and "spending limit of $0.20" in failed["reason"]
    code, told = rollout("--grader", "judge", "--answer-tokens", "500", "--limit-usd", "5", n=1)
    assert (code, told["graded"], LlmCall.objects.count()) == (0, 1, 2)


def test_a_grader_that_is_not_there_is_bad_usage(rollout):
    with pytest.raises(CommandError, match="no grader nobody") as error:
        rollout("--grader", "nobody")
    assert (error.value.returncode, Run.objects.count()) == (2, 0)


def test_a_new_run_offers_the_tasks_primary_grader_ticked_and_says_what_it_adds(as_admin, api):
    task = make_idea_task()
    name = f"judge@{registry.get('judge').version}"
    page = as_admin.get("/runs/new/?kind=rollout&task=idea_proposal").content.decode()
    assert f'name="grader" value="{name}" checked' in page
    form = {"kind": "rollout", "task": task.slug, "variant": task.variants.first().name, "models": MODEL, "n": "2", "grader": name}
    assert "Grading with judge: 1 vote an output." in as_admin.get("/runs/new/", form).content.decode()
    as_admin.post("/runs/new/", form)
    run = Run.objects.get()
    assert run.arguments["graders"] == [name] and run.arguments["estimate"]["calls"] == 4
    assert name in as_admin.get(f"/runs/{run.pk}/").content.decode()
    refused = as_admin.post("/runs/new/", form | {"grader": "nobody"})
    assert (refused.status_code, Run.objects.count()) == (422, 1)
    assert f"grader is &#x27;nobody&#x27;, allowed: {name}" in refused.content.decode()


def idea_run(n):
    task = make_idea_task()
    return start_rollouts(task, [task.variants.first()], [MODEL], n, graders=[save_plain_grader(registry.get("judge"))])


def test_a_paused_run_holds_its_gradings_back(api):
    run = idea_run(2)
    first, second = run.jobs.order_by("pk")
    queue.pause_run(run)
    queue.retry(first)
    batch.work_here([first.pk], lambda counts: None)
    assert sorted(run.jobs.values_list("kind", "state")) == [("grade", "paused"), ("rollout", "done"), ("rollout", "paused")]
    queue.resume_run(run)
    batch.work_here(list(run.jobs.values_list("pk", flat=True)), lambda counts: None)
    assert Grade.objects.count() == 1 + Job.objects.filter(pk=second.pk, state="done").count()


def test_a_worker_killed_in_the_middle_loses_no_grading_and_repeats_no_finished_call(api, tmp_path):
    run = idea_run(8)
    api.otherwise = works_and_judges(wait_s=0.3)
    jobs = ",".join(str(pk) for pk in run.jobs.values_list("pk", flat=True))
    told = {"TOUCHSTONE_TEST_DIR": str(tmp_path / "other"), "DATABASE_URL": database_url(), "SECRET_KEY": settings.SECRET_KEY}
    env = {**os.environ, **told, "JOB_LEASE_S": "1", "LLM_IN_FLIGHT": "3"}
    with subprocess.Popen([sys.executable, "-m", "tests.judges.spender", jobs], cwd=settings.BASE_DIR, env=env) as process:
        wait_for(lambda: Grade.objects.count() >= 1 or LlmCall.objects.count() >= 10, 60)
        process.kill()
    wait_for(lambda: api.in_flight == 0, 10)
    stored, asked = LlmCall.objects.count(), len(api.asked)
    assert stored < 16
    while open_jobs := list(run.jobs.filter(state__in=queue.OPEN).values_list("pk", flat=True)):
        batch.work_here(open_jobs, lambda counts: None)
    assert len(api.asked) - asked == 16 - stored
    assert (Output.objects.count(), Grade.objects.count(), LlmCall.objects.count()) == (8, 8, 16)
    assert run.jobs.filter(kind="grade", state="done").count() == 8
