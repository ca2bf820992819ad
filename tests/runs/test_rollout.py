"""manage.py rollout: agents do a task through the jobs; their outputs stand beside imported ones."""

from __future__ import annotations

import json

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from reviewapp.catalog.sync import save_task
from reviewapp.models import Job, LlmCall, Output, Run, ToolResult
from tasks.task import SHIPPED_TASKS, load_task
from tasks.tools.corpus import Corpus
from tasks.tools.papers import Paper
from tests.llm.calling import MODEL
from tests.messages_api import MessagesApi, Says, Status, thinking, tool_use

REVIEW = "# Review\n\nMemGPT reaches 92.5% [arXiv:2310.08560]."

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def task():
    paper = Paper("arXiv:2310.08560", "MemGPT: Towards LLMs as Operating Systems", ("Charles Packer",), 2023, results="We reach 92.5%.")
    Corpus(settings.DATA_DIR / "corpus.sqlite3").add(paper)
    return save_task(load_task(SHIPPED_TASKS / "literature_review"))


def reviewer(body):
    """What the server answers: first a search, then the review."""
    if len(body["messages"]) == 1:
        return Says(blocks=(thinking("Search."), tool_use("web_search", {"query": "memgpt"})), stop_reason="tool_use")
    return Says(REVIEW)


@pytest.fixture
def rollout(monkeypatch, capsys, task):
    """Runs the command against a server; gives (exit code, its JSON)."""

    def rollout(api, *more, n=2):
        monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("LLM_ATTEMPTS", "1")
        monkeypatch.setenv("DATA_DIR", str(settings.DATA_DIR))
        code = 0
        arguments = ["--task", "literature_review", "--variant", "open_survey", "--model", MODEL, "--n", str(n), "--json"]
        try:
            call_command("rollout", *arguments, *more)
        except SystemExit as error:
            code = error.code
        return code, json.loads(capsys.readouterr().out)

    return rollout


def test_rollouts_become_outputs_with_their_transcripts(rollout, task):
    with MessagesApi(otherwise=reviewer) as api:
        code, told = rollout(api, "--here", "--thinking")
        assert (told["calls"], told["tokens"]) == (4, api.usage.total)
    assert (code, told["failed"], len(told["outputs"])) == (0, [], 2)
    output = Output.objects.get(pk=told["outputs"][0])
    assert (output.task, output.variant.name, output.model, output.run_id) == (task, "open_survey", MODEL, told["run"])
    assert output.body.content == REVIEW
    assert output.prompt.text == output.variant.prompt
    assert output.metadata["rollout"]["tool_calls"] == 1
    assert "[arXiv:2310.08560]" in output.body.transcript[2]["content"][0]["content"]
    assert MODEL not in output.external_id + json.dumps(output.metadata)
    assert ToolResult.objects.count() == 0


def test_the_review_page_shows_the_rollout_like_any_other(rollout, as_admin):
    with MessagesApi(otherwise=reviewer) as api:
        told = rollout(api, "--here", "--thinking", n=1)[1]
    page = as_admin.get(f"/outputs/{told['outputs'][0]}/?tab=transcript").content.decode()
    for text in ("Thinking", "Calls web_search", "Tool answers", "MemGPT reaches 92.5%"):
        assert text in page


def test_without_waiting_the_run_is_queued(rollout):
    with MessagesApi() as api:
        code, told = rollout(api, n=3)
    assert (code, told["queued"], told["n"]) == (0, 3, 3)
    assert set(Job.objects.values_list("kind", "queue", "state")) == {("rollout", "rollout", "queued")}


def test_asked_for_again_only_what_failed_is_done_and_nothing_is_paid_twice(rollout):
    answered = []

    def once(body):
        if len(body["messages"]) > 1 and not answered:
            answered.append(1)
            return Status(500)
        return reviewer(body)

    with MessagesApi(otherwise=once) as api:
        code, told = rollout(api, "--here")
        assert (code, len(told["outputs"]), len(told["failed"])) == (3, 1, 1)
        assert "500" in told["failed"][0]["reason"]
        asked = len(api.bodies)
        code, again = rollout(api, "--here")
        assert len(api.bodies) - asked == 1  # the search was answered before, and the tool's result kept
        assert again["tokens"] == api.usage.total
    assert (code, again["run"], again["failed"], len(again["outputs"])) == (0, told["run"], [], 2)
    assert Run.objects.count() == 1


def test_asked_for_again_when_all_is_done_no_model_is_asked(rollout):
    with MessagesApi(otherwise=reviewer) as api:
        first = rollout(api, "--here")[1]
        asked = len(api.bodies)
        code, told = rollout(api, "--here")
        assert (code, told["done_before"], told["outputs"], len(api.bodies)) == (0, 2, first["outputs"], asked)
        assert len(rollout(api, "--here", n=3)[1]["outputs"]) == 3
        assert rollout(api, "--here", "--new", n=1)[1]["run"] != first["run"]


def test_a_spent_run_stops_and_goes_on_with_a_higher_limit(rollout):
    with MessagesApi(otherwise=reviewer) as api:
        code, told = rollout(api, "--here", "--limit-usd", "0.000001")
        assert (code, len(told["failed"]), api.bodies) == (3, 2, [])
        assert "spending limit of $0.00" in told["failed"][0]["reason"]
        code, told = rollout(api, "--here", "--limit-usd", "5")
    assert (code, len(told["outputs"]), Run.objects.count()) == (0, 2, 1)


def test_a_refusal_is_an_output_without_content_that_says_why(rollout):
    with MessagesApi(otherwise=lambda body: Says("No.", stop_reason="refusal")) as api:
        code, _ = rollout(api, "--here", n=1)
    output = Output.objects.get()
    assert (code, output.length, output.content_missing) == (0, 0, "the model refused: No.")


def test_a_job_that_is_done_twice_writes_one_output(rollout):
    with MessagesApi(otherwise=reviewer) as api:
        rollout(api, "--here", n=1)
        Job.objects.update(state="queued", claims=0)
        rollout(api, "--here", n=1)
        assert len(api.bodies) == 2
    assert (Output.objects.count(), LlmCall.objects.count()) == (1, 2)


def test_many_rollouts_are_under_way_at_once_in_one_process(rollout):
    def slow(body):
        said = reviewer(body)
        return Says(said.text, blocks=said.blocks, stop_reason=said.stop_reason, wait_s=0.3)

    with MessagesApi(otherwise=slow) as api:
        assert len(rollout(api, "--here", n=12)[1]["outputs"]) == 12
        assert api.most_in_flight >= 6


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--variant", "nope"], "variant is 'nope', allowed: tools_and_numbers, open_survey"),
        (["--n", "0"], "n is 0, allowed: 1 to 10,000"),
        (["--limit-usd", "-1"], "limit-usd is -1.0, must be above 0"),
        (["--task", "nope"], "task is 'nope'"),
    ],
)
def test_bad_usage_is_exit_2(rollout, more, why):
    with MessagesApi() as api, pytest.raises(CommandError, match=why) as error:
        rollout(api, *more)
    assert error.value.returncode == 2


def test_without_a_model_nothing_is_queued_and_the_command_says_what_to_set(task, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    with pytest.raises(CommandError, match="set ANTHROPIC_API_KEY") as error:
        call_command("rollout", "--task", "literature_review", "--variant", "open_survey", "--model", MODEL)
    assert (error.value.returncode, Job.objects.count()) == (3, 0)
