"""What the port does when a server is busy, breaks off, is slow or talks nonsense: each through the real SDK."""

import asyncio
import time

import pytest

from llm.calls import SqliteCalls
from llm.errors import CallFailed, NotConfigured
from llm.types import Request, Text, ToolCall, Turn, ask
from tests.llm.calling import MODEL, ask_many, ask_once, request, with_port
from tests.messages_api import Cut, Drops, Garbage, Hangs, MessagesApi, Says, Status, StreamError, thinking, tool_use


def totals(folder):
    return SqliteCalls(folder / "llm" / "calls.sqlite3").totals("test")


def test_an_answer_comes_with_its_usage_request_id_and_price(tmp_path):
    with MessagesApi([Says("Hello, Ana")]) as api:
        reply = ask_once(api, tmp_path)
    assert (reply.text, reply.stop_reason, reply.request_id, reply.attempts) == ("Hello, Ana", "end_turn", "req_1", 1)
    assert reply.usage.total == api.usage.total
    assert reply.cost_usd == pytest.approx((4 * reply.usage.input + 20 * reply.usage.output) / 1e6)


@pytest.mark.parametrize(("status", "waits"), [(429, True), (529, True), (500, False), (408, False), (409, False)])
def test_a_busy_server_is_asked_again_after_as_long_as_it_says(tmp_path, status, waits):
    with MessagesApi([Status(status, retry_after="0.3" if waits else ""), Says("now")]) as api:
        reply = ask_once(api, tmp_path)
    assert (reply.text, reply.attempts) == ("now", 2)
    assert (api.asked[1].at - api.asked[0].at >= 0.3) is waits


def test_retry_after_is_read_as_a_date_and_in_milliseconds_too(tmp_path):
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1))
    steps = [Status(429, headers={"retry-after-ms": "200"}), Status(429, retry_after=soon), Says()]
    with MessagesApi(steps) as api:
        assert ask_once(api, tmp_path).attempts == 3
    assert api.asked[1].at - api.asked[0].at >= 0.2


def test_a_limit_that_one_call_hits_holds_all_calls_back(tmp_path):
    with MessagesApi([Status(429, retry_after="0.6")]) as api:

        async def both(port):
            task = asyncio.create_task(port.ask(request()))
            while len(api.asked) < 1:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            await port.ask(request())
            await task

        with_port(api, tmp_path, both)
    assert min(asked.at for asked in api.asked[1:]) - api.asked[0].at >= 0.55


def test_a_server_that_asks_to_wait_for_an_hour_is_told_to_people(tmp_path):
    with MessagesApi([Status(429, retry_after="3600")]) as api, pytest.raises(CallFailed, match="asks to wait 3600 s"):
        ask_once(api, tmp_path)


BREAKS = {"cut": Cut(), "silent": Cut(is_silent=True), "overloaded": StreamError(), "api": StreamError("api_error"), "drop": Drops()}


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("step", BREAKS.values(), ids=BREAKS)
def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path, step, is_streamed):
    with MessagesApi([step, Says("whole")]) as api:
        reply = ask_once(api, tmp_path, request(max_tokens=20_000 if is_streamed else 100))
    assert (reply.text, reply.attempts) == ("whole", 2)
    assert [bool(body.get("stream")) for body in api.bodies] == [is_streamed] * 2


def test_what_a_broken_stream_has_cost_is_counted_with_the_answer(tmp_path):
    with MessagesApi([Cut(), StreamError(), Says("whole")]) as api:
        reply = ask_once(api, tmp_path, request(max_tokens=20_000))
    assert api.usage.calls == 3
    assert reply.usage.total == api.usage.total == totals(tmp_path).usage.total


def test_what_broken_streams_have_cost_is_counted_even_if_no_answer_comes(tmp_path):
    with MessagesApi(otherwise=lambda body: Cut()) as api, pytest.raises(CallFailed, match="no answer after 3 attempts"):
        ask_once(api, tmp_path, request(max_tokens=20_000), LLM_ATTEMPTS="3")
    assert totals(tmp_path).usage.total == api.usage.total > 0


@pytest.mark.parametrize("body", ['{"type": "mess', "<html>busy</html>", "[]", "{}"])
def test_an_answer_that_is_no_message_is_asked_for_again(tmp_path, body):
    with MessagesApi([Garbage(body), Says("fine")]) as api:
        assert ask_once(api, tmp_path).text == "fine"


def test_a_slow_first_token_is_waited_for(tmp_path):
    with MessagesApi([Says("late", wait_s=0.5)]) as api:
        assert ask_once(api, tmp_path, request(timeout_s=5)).duration_s >= 0.5


@pytest.mark.parametrize("max_tokens", [100, 20_000])
def test_no_answer_in_time_is_another_attempt(tmp_path, max_tokens):
    with MessagesApi([Hangs(), Says("at last")]) as api:
        assert ask_once(api, tmp_path, request(timeout_s=2, max_tokens=max_tokens)).attempts == 2


@pytest.mark.parametrize(("status", "hint"), [(401, "check ANTHROPIC_API_KEY"), (404, "does not know the model"), (400, "scripted")])
def test_a_refused_call_is_not_repeated_and_says_why(tmp_path, status, hint):
    with MessagesApi([Status(status)]) as api, pytest.raises(CallFailed, match=hint) as error:
        ask_once(api, tmp_path)
    assert (len(api.asked), error.value.status) == (1, status)


def test_a_server_can_say_that_asking_again_is_of_no_use(tmp_path):
    with MessagesApi([Status(529, headers={"x-should-retry": "false"})]) as api, pytest.raises(CallFailed):
        ask_once(api, tmp_path)
    assert len(api.asked) == 1


def test_a_server_that_is_not_there_is_given_up_after_the_attempts(tmp_path):
    with MessagesApi() as api:
        pass
    with pytest.raises(CallFailed, match="no answer after 2 attempts: the connection broke"):
        ask_once(api, tmp_path, LLM_ATTEMPTS="2")


def test_without_key_and_server_it_says_what_to_set(tmp_path):
    with MessagesApi() as api, pytest.raises(NotConfigured, match="set ANTHROPIC_API_KEY to a key, or ANTHROPIC_BASE_URL"):
        ask_once(api, tmp_path, ANTHROPIC_API_KEY="", ANTHROPIC_BASE_URL="")


def test_thinking_is_asked_for_by_name_and_kept_with_its_signature(tmp_path):
    said = Says(blocks=(thinking("First, the claim."), {"type": "text", "text": "7"}), thinking_tokens=40)
    with MessagesApi([said]) as api:
        reply = ask_once(api, tmp_path, request(thinking=True, effort="high"))
    body = api.bodies[0]
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive", "display": "summarized"}, {"effort": "high"})
    assert (reply.text, reply.thinking, reply.usage.thinking) == ("7", "First, the claim.", 40)
    assert "temperature" not in body and body["stream"] is True


def test_a_conversation_goes_back_as_it_came(tmp_path):
    said = Says(blocks=(thinking(), tool_use("search", {"query": "memory"})), stop_reason="tool_use")
    with MessagesApi([said]) as api:
        reply = ask_once(api, tmp_path, request(thinking=True))
        ask_once(api, tmp_path, Request(MODEL, (ask("Hello"), reply.turn, ask("Go on")), thinking=True))
    assert reply.tool_calls == (ToolCall("toolu_1", "search", {"query": "memory"}),)
    assert api.bodies[1]["messages"][1]["content"] == list(said.blocks)


def test_what_many_requests_share_is_marked_for_the_servers_cache_and_read_from_it(tmp_path):
    shared = (Text("The rubric. " * 200, is_cached=True),)
    with MessagesApi() as api:
        first, second = (ask_once(api, tmp_path, request(system=shared)) for _ in range(2))
    assert api.bodies[0]["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert first.usage.cache_write == second.usage.cache_read > 500
    assert second.cost_usd < first.cost_usd


def test_empty_text_is_not_sent(tmp_path):
    with MessagesApi() as api:
        ask_once(api, tmp_path, request(turns=(Turn("user", (Text(""), Text("Hello"))),)))
    assert api.bodies[0]["messages"][0]["content"] == [{"type": "text", "text": "Hello"}]


def test_totals_equal_what_the_server_counted(tmp_path):
    steps = [Status(429, retry_after="0.1"), Cut(), Says("a"), StreamError(), Status(500)]
    with MessagesApi(steps, otherwise=lambda body: Says("word " * len(body["messages"][0]["content"][0]["text"]))) as api:
        ask_many(api, tmp_path, [request("x" * n, max_tokens=20_000 if n % 2 else 50) for n in range(1, 41)])
    found = totals(tmp_path)
    counted = (api.usage.input, api.usage.output, api.usage.cache_read, api.usage.cache_write)
    assert (found.usage.input, found.usage.output, found.usage.cache_read, found.usage.cache_write) == counted
    assert found.cost_usd == pytest.approx((4 * api.usage.input + 20 * api.usage.output) / 1e6)
