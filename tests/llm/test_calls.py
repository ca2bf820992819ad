"""A finished call is stored before it is used, and never made twice."""

import pytest

from llm.calls import SqliteCalls
from llm.types import Reply, Text, Thinking, ToolCall, Usage
from tests.llm.calling import ask_many, ask_once, request
from tests.messages_api import MessagesApi, Says


def calls_of(folder):
    return SqliteCalls(folder / "llm" / "calls.sqlite3")


def test_the_same_request_is_asked_once(tmp_path):
    with MessagesApi(otherwise=lambda body: Says("yes")) as api:
        asked = request()
        first, second = ask_once(api, tmp_path, asked), ask_once(api, tmp_path, asked)
    assert (len(api.asked), first.is_from_cache, second.is_from_cache) == (1, False, True)
    assert (second.text, second.usage, second.cost_usd) == (first.text, first.usage, first.cost_usd)
    assert calls_of(tmp_path).totals("test").calls == 1


def test_another_nonce_is_another_call_and_is_not_sent(tmp_path):
    with MessagesApi() as api:
        ask_many(api, tmp_path, [request(nonce=str(n)) for n in range(3)])
    assert len(api.asked) == 3
    assert api.bodies[0] == api.bodies[1] == api.bodies[2]


@pytest.mark.parametrize("change", [{"max_tokens": 5}, {"model": "other"}, {"effort": "low"}, {"thinking": True}, {"schema": {"a": 1}}])
def test_whatever_is_sent_is_part_of_the_hash(change):
    assert request(nonce="1").sha256 != request(nonce="1", **change).sha256


def test_how_long_we_wait_is_not_part_of_the_hash():
    assert request(nonce="1", timeout_s=1).sha256 == request(nonce="1", timeout_s=2).sha256


def test_a_reply_is_the_same_after_it_was_stored():
    blocks = (Thinking("hm", "sig"), Thinking("", "", "ciphertext"), Text("a"), ToolCall("1", "t", {"x": [1, None]}))
    reply = Reply(blocks, "tool_use", "m", Usage(1, 2, 3, 4, 5), "req", "msg", None, 3, 1.5)
    assert Reply.from_json(reply.to_json()) == reply


def test_text_that_is_no_valid_unicode_has_a_hash_too():
    assert len(request("\ud800").sha256) == 64


def test_totals_are_by_scope_and_count_what_has_no_price(tmp_path):
    calls = SqliteCalls(tmp_path / "c.sqlite3")
    for cost in (0.5, None):
        calls.save("x", "run 1", Reply((), "end_turn", "m", Usage(1, 2), cost_usd=cost))
    found = calls.totals("run 1")
    assert (found.calls, found.usage, found.cost_usd, found.unpriced) == (2, Usage(2, 4), 0.5, 1)
    assert calls.totals("run 2").calls == 0
