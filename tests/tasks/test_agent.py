"""The rollout loop through the real SDK, against a scripted server of the Messages API."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from graders.run_code import run_code_tool
from graders.sandbox import SandboxError, choose_backend
from llm.budget import Budget
from llm.errors import CallFailed
from llm.port import connect
from tasks.agent import Limits, Rollout, Settings, output_of, roll_out
from tasks.task import SHIPPED_TASKS, load_task
from tasks.tools.config import Sources
from tasks.tools.literature import Literature
from tasks.tools.papers import Paper
from tasks.tools.tool import Tool
from tests.llm.calling import MODEL, config_for
from tests.messages_api import Hangs, MessagesApi, Says, Status, thinking, tool_use

LITERATURE = load_task(SHIPPED_TASKS / "literature_review")
CODE = load_task(SHIPPED_TASKS / "fsdp_training")
REVIEW = "# Review\n\nMemGPT reaches 92.5% [arXiv:2310.08560]."


class Kept(dict):
    """Notes in memory."""

    def find(self, key):
        return self.get(key)

    def save(self, key, text, is_error):
        self[key] = (text, is_error)


def run(api, folder, tools=(), *, task=LITERATURE, notes=None, limits=None, **fields) -> Rollout:
    settings = Settings(MODEL, limits=limits or Limits(), **{"scope": "run 1", "nonce": "1", **fields})

    async def work():
        async with connect(config_for(api, folder)) as port:
            port.first_wait_s = 0.01
            return await roll_out(port, task, task.variants[0], tools, settings, notes=notes)

    return asyncio.run(work())


def calls(*blocks, **fields) -> Says:
    return Says(blocks=blocks, stop_reason="tool_use", **fields)


def echo(answer="found it", name="web_search") -> Tool:
    return Tool(name, "Searches.", {"query": "words"}, lambda query: f"{answer}: {query}")


# --- the literature task, end to end ---


@pytest.fixture
def literature(tmp_path):
    literature = Literature(Sources(corpus=tmp_path / "corpus.sqlite3", has_network=False))
    paper = Paper("arXiv:2310.08560", "MemGPT: Towards LLMs as Operating Systems", ("Charles Packer",), 2023, "Virtual context.")
    literature.corpus.add(replace(paper, introduction="Windows are short.", results="We reach 92.5%.", full_text="All of it."))
    return literature


def test_a_review_is_written_with_tools_on_the_local_corpus(tmp_path, literature):
    script = [
        calls(thinking("Search first."), tool_use("web_search", {"query": "memory operating systems"}, "toolu_1")),
        calls(
            tool_use("get_paper_introduction", {"paper_id": "arXiv:2310.08560"}, "toolu_2"),
            tool_use("get_paper_results", {"paper_id": "arXiv:2310.08560"}, "toolu_3"),
        ),
        Says(REVIEW),
    ]
    with MessagesApi(script) as api:
        rollout = run(api, tmp_path, literature.tools(), thinking=True)
        sent = api.bodies
        assert (rollout.usage.total, rollout.turns) == (api.usage.total, 3)
    assert (rollout.output, rollout.stop_reason, rollout.tool_calls) == (REVIEW, "handed_in", 3)
    results = {
        block["tool_use_id"]: block["content"]
        for message in sent[2]["messages"]
        for block in message["content"]
        if block["type"] == "tool_result"
    }
    assert "[arXiv:2310.08560] Charles Packer. MemGPT" in results["toolu_1"]
    assert "Windows are short." in results["toolu_2"]
    assert "We reach 92.5%." in results["toolu_3"]
    assert [tool["name"] for tool in sent[0]["tools"]] == list(LITERATURE.tools)


def test_the_transcript_is_what_was_sent_and_the_answer_at_its_end(tmp_path):
    script = [
        calls(thinking("Hm."), tool_use("web_search", {"query": "x"})),
        Says(blocks=(thinking("Now."), {"type": "text", "text": REVIEW})),
    ]
    with MessagesApi(script) as api:
        rollout = run(api, tmp_path, [echo()], thinking=True)
        assert list(rollout.transcript[:-1]) == api.bodies[1]["messages"]
    assert rollout.transcript[1]["content"][0] == thinking("Hm.")
    assert rollout.transcript[-1]["content"] == [thinking("Now."), {"type": "text", "text": REVIEW}]


# --- tools that fail ---


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (tool_use("get_paper_results", {"paper_id": "arXiv:9999.99999"}), "LITERATURE_NETWORK is off"),
        (tool_use("web_search", {"q": "x"}), "web_search takes query; got q"),
        (tool_use("delete_everything", {}), "there is no tool 'delete_everything'; there are: web_search, get_paper_introduction"),
    ],
)
def test_an_error_of_a_tool_is_told_to_the_model_which_goes_on(tmp_path, literature, call, told):
    with MessagesApi([calls(call), Says(REVIEW)]) as api:
        rollout = run(api, tmp_path, literature.tools())
        result = api.bodies[1]["messages"][-1]["content"][0]
    assert rollout.output == REVIEW
    assert result["is_error"] is True
    assert told in result["content"]


def test_a_broken_tool_does_not_cost_the_rollout(tmp_path):
    broken = Tool("web_search", "Searches.", {"query": "words"}, lambda query: 1 / 0)
    with MessagesApi([calls(tool_use("web_search", {"query": "x"})), Says(REVIEW)]) as api:
        assert run(api, tmp_path, [broken]).output == REVIEW
        assert "web_search is broken: ZeroDivisionError" in str(api.bodies[1]["messages"])


# --- how it stops ---


def forever(body):
    return Says(REVIEW) if body.get("tool_choice") == {"type": "none"} else calls(tool_use("web_search", {"query": "more"}))


@pytest.mark.parametrize(
    ("limits", "reason", "asked"),
    [(Limits(turns=4), "turns", 4), (Limits(tokens=10), "tokens", 2), (Limits(seconds=0), "seconds", 2)],
)
def test_at_a_limit_the_model_is_asked_to_hand_in_without_tools(tmp_path, limits, reason, asked):
    with MessagesApi(otherwise=forever) as api:
        rollout = run(api, tmp_path, [echo()], limits=limits)
        assert len(api.bodies) == asked
        assert "Hand in your answer now" in str(api.bodies[-1]["messages"][-1])
    assert (rollout.output, rollout.stop_reason) == (REVIEW, reason)


def test_a_rollout_stops_when_its_money_is_spent(tmp_path):
    with MessagesApi(otherwise=forever) as api:
        rollout = run(api, tmp_path, [echo()], limits=Limits(usd=0.000001))
    assert (rollout.output, rollout.stop_reason) == ("", "usd")
    assert "$0.00 is spent" in rollout.missing


def test_a_run_whose_money_is_spent_starts_no_call(tmp_path):
    with MessagesApi(otherwise=forever) as api:
        rollout = run(api, tmp_path, [echo()], budget=Budget(usd=0.0001))
        assert api.bodies == []
    assert (rollout.stop_reason, "spending limit of $0.00" in rollout.missing) == ("usd", True)


@pytest.mark.parametrize(
    ("says", "reason", "output"),
    [
        (Says("I won't.", stop_reason="refusal"), "refusal", ""),
        (Says(""), "no_output", ""),
        (Says("# Rev", stop_reason="max_tokens"), "cut_off", "# Rev"),
    ],
)
def test_an_answer_that_is_none_says_why(tmp_path, says, reason, output):
    with MessagesApi([says]) as api:
        rollout = run(api, tmp_path)
    assert (rollout.stop_reason, rollout.output, bool(rollout.missing)) == (reason, output, not output)


def test_a_paused_turn_is_taken_up_again(tmp_path):
    with MessagesApi([Says("Wait. ", stop_reason="pause_turn"), Says(REVIEW)]) as api:
        assert run(api, tmp_path).output == REVIEW
        assert api.bodies[1]["messages"][-1]["role"] == "assistant"


def test_a_server_that_fails_ends_the_rollout_with_an_error(tmp_path):
    with MessagesApi(otherwise=lambda body: Status(400, message="no such model")) as api, pytest.raises(CallFailed, match="no such model"):
        run(api, tmp_path)


# --- going on after a crash ---


def test_a_rollout_that_starts_again_asks_only_for_what_was_not_answered(tmp_path):
    searched, notes = [], Kept()
    tool = Tool("web_search", "Searches.", {"query": "words"}, lambda query: searched.append(query) or f"answer {len(searched)}")
    first = [calls(tool_use("web_search", {"query": "a"})), calls(tool_use("web_search", {"query": "b"})), Status(400)]
    with MessagesApi(first) as api:
        with pytest.raises(CallFailed):
            run(api, tmp_path, [tool], notes=notes)
    with MessagesApi([Says(REVIEW)]) as api:
        rollout = run(api, tmp_path, [tool], notes=notes)
        assert len(api.bodies) == 1
    assert (rollout.output, rollout.turns, searched) == (REVIEW, 3, ["a", "b"])
    assert rollout.usage.total > api.usage.total  # what was paid for before is in its account


def test_two_samples_of_one_prompt_are_two_calls(tmp_path):
    with MessagesApi([Says("one"), Says("two")]) as api:
        assert [run(api, tmp_path, nonce=n).output for n in ("1", "2", "1")] == ["one", "two", "one"]


def test_a_slow_tool_and_a_slow_server_do_not_hang_the_rollout(tmp_path):
    with MessagesApi([Hangs(5), Says(REVIEW)]) as api:
        assert run(api, tmp_path, timeout_s=0.3).output == REVIEW


# --- the task's contract ---

LONG = "import torch\n\ndef main():\n    return 1\n"


@pytest.mark.parametrize(
    ("text", "kind", "output"),
    [
        (
            f"Here it is:\n\n```python\n{LONG}```\n\nRun it:\n\n```bash\ntorchrun a.py --with a long line of options\n```",
            "python",
            LONG,
        ),
        (f"```python\nmain()\n```\n\n```py\n{LONG}```", "python", LONG),
        (f"````\n{LONG}````", "python", LONG),
        (LONG, "python", LONG),
        ("I could not do it.", "python", ""),
        (f"```python\n{LONG}", "python", ""),
        (f"```markdown\n{REVIEW}\n```", "markdown", REVIEW),
        (f"{REVIEW}\n\n```python\nx\n```", "markdown", f"{REVIEW}\n\n```python\nx\n```"),
        ("  plain ", "text", "plain"),
    ],
)
def test_the_output_is_taken_as_the_task_wants_it(text, kind, output):
    assert output_of(text, kind) == output


def test_a_code_task_gets_its_starter_with_the_prompt(tmp_path):
    with MessagesApi([Says(f"```python\n{LONG}```")]) as api:
        assert run(api, tmp_path, task=CODE).output == LONG
        first = api.bodies[0]["messages"][0]["content"]
    assert first[0]["text"] == CODE.variants[0].prompt
    assert CODE.starter.strip()[:200] in first[1]["text"]


def test_the_agent_of_a_code_task_can_run_code_in_the_sandbox(tmp_path):
    try:
        choose_backend()
    except SandboxError as error:
        pytest.skip(str(error))
    script = [calls(tool_use("run_code", {"code": "print(6 * 7); raise SystemExit(3)"})), Says(f"```python\n{LONG}```")]
    with MessagesApi(script) as api:
        assert run(api, tmp_path, [run_code_tool(warm=False)], task=CODE).tool_calls == 1
        told = api.bodies[1]["messages"][-1]["content"][0]["content"]
    assert "exit code 3" in told
    assert "stdout:\n42" in told
