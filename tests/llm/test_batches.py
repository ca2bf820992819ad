"""Message Batches: half the price, any order, found again after a crash."""

import asyncio

import pytest

from llm.batches import Batches
from llm.calls import SqliteCalls
from llm.port import connect
from tests.llm.calling import config_for, request, with_port
from tests.messages_api import MessagesApi, Says, Status


def text_of(body):
    return body["messages"][0]["content"][0]["text"]


def echo(body):
    return Status(400, message="too long") if text_of(body) == "bad" else Says(f"said {text_of(body)}")


def run_batch(api, folder, asked):
    return with_port(api, folder, lambda port: Batches(port, poll_s=0.01).run(asked, "run"))


def test_results_find_their_requests_whatever_order_they_come_in(tmp_path):
    asked = [request(f"question {n}") for n in range(20)]
    with MessagesApi(otherwise=echo, batch_polls=3) as api:
        report = run_batch(api, tmp_path, asked)

        async def read(port):
            return [await port.ask(one) for one in asked]

        replies = with_port(api, tmp_path, read)
    assert report.stored == {one.sha256 for one in asked}
    assert [reply.text for reply in replies] == [f"said question {n}" for n in range(20)]
    assert api.bodies == []  # no call but the batch


def test_a_batch_costs_half_and_its_totals_are_the_servers(tmp_path):
    with MessagesApi(otherwise=echo) as api:
        run_batch(api, tmp_path, [request("a" * n) for n in range(1, 6)])
    found = SqliteCalls(tmp_path / "llm" / "calls.sqlite3").totals("run")
    assert (found.calls, found.usage.total) == (5, api.usage.total)
    assert found.cost_usd == pytest.approx((4 * api.usage.input + 20 * api.usage.output) / 2e6)


def test_a_request_that_fails_in_the_batch_says_why_and_can_be_asked_again(tmp_path):
    asked = [request("good"), request("bad")]
    with MessagesApi(otherwise=echo) as api:
        report = run_batch(api, tmp_path, asked)
        assert report.failed == {asked[1].sha256: "the batch's request failed: too long"}
        run_batch(api, tmp_path, asked)
    assert [len(batch["requests"]) for batch in api.batches.values()] == [2, 1]


def test_after_a_crash_the_batch_is_found_again_and_nothing_is_submitted_twice(tmp_path):
    asked = [request(f"question {n}") for n in range(5)]

    async def submit_and_die():
        async with connect(config_for(api, tmp_path)) as port:
            await Batches(port).submit(asked, "run")

    with MessagesApi(otherwise=echo) as api:
        asyncio.run(submit_and_die())
        report = run_batch(api, tmp_path, [*asked, request("one more")])
    assert [len(batch["requests"]) for batch in api.batches.values()] == [5, 1]
    assert len(report.stored) == 6


def test_what_is_answered_already_is_not_in_the_batch(tmp_path):
    asked = [request("known"), request("new")]
    with MessagesApi(otherwise=echo) as api:
        with_port(api, tmp_path, lambda port: port.ask(asked[0]))
        run_batch(api, tmp_path, asked)
    assert [text_of(row["params"]) for row in api.batches["msgbatch_1"]["requests"]] == ["new"]
