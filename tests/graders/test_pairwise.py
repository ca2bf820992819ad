"""Which of two is better, asked in both orders."""

import json

import pytest

from graders.judge import JudgeError
from graders.judge.judge import Judge, judged_criteria
from graders.judge.pairwise import build_pair_request, compare
from llm.wire import arguments
from tests.graders.injections import INJECTIONS
from tests.graders.judging import ASKING, run_with_port, shipped
from tests.messages_api import MessagesApi, Says, Status

GOOD, BAD = "A good idea with evidence.", "A bad idea."


def says(better):
    rows = dict.fromkeys([c.key for c in judged_criteria(shipped())], better)
    return Says(json.dumps({"criteria": rows, "rationale": "It has evidence.", "better": better}))


def prefers_good(body):
    text = json.dumps(body["messages"])
    return says("A" if text.index(GOOD) < text.index(BAD) else "B")


def compared(api, folder, pair=(GOOD, BAD)):
    return run_with_port(api, folder, lambda port: compare(port, Judge(), shipped(), pair, ASKING))


@pytest.mark.parametrize(("pair", "winner"), [((GOOD, BAD), "first"), ((BAD, GOOD), "second")])
def test_the_better_one_wins_in_both_orders(tmp_path, pair, winner):
    with MessagesApi(otherwise=prefers_good) as api:
        found = compared(api, tmp_path, pair)
    assert (found.winner, found.is_consistent, len(api.asked)) == (winner, True, 2)
    assert set(found.criteria.values()) == {winner}
    assert found.cost_usd > 0


@pytest.mark.parametrize("place", ["A", "B"])
def test_a_judge_that_favours_a_place_gives_a_tie_that_is_marked(tmp_path, place):
    with MessagesApi(otherwise=lambda body: says(place)) as api:
        found = compared(api, tmp_path)
    assert (found.winner, found.is_consistent) == ("tie", False)
    assert set(found.by_order) == {"first", "second"}


def test_a_tie_in_both_orders_is_a_tie(tmp_path):
    with MessagesApi(otherwise=lambda body: says("tie")) as api:
        assert compared(api, tmp_path).is_consistent


def test_an_answer_that_can_not_be_used_is_no_tie(tmp_path):
    with MessagesApi(otherwise=lambda body: Says("C")) as api:
        found = compared(api, tmp_path)
    assert (found.winner, found.unscored_reason) == (None, "parse_failure")


def test_a_judge_that_can_not_be_asked_compares_nothing(tmp_path):
    with MessagesApi(otherwise=lambda body: Status(401)) as api, pytest.raises(JudgeError):
        compared(api, tmp_path)


@pytest.mark.parametrize("content", [content for content, _ in INJECTIONS.values()], ids=list(INJECTIONS))
def test_both_submissions_stay_in_blocks_of_their_own(content):
    sent = arguments(build_pair_request(Judge(), shipped(), (content, GOOD), secret=b"s", nonce="1"))
    intro, first, second, last = (block["text"] for block in sent["messages"][0]["content"])
    assert GOOD in second and GOOD not in first + intro + last
    assert content.splitlines()[0] in first and content.splitlines()[0] not in second + intro + last
    assert first.splitlines()[0] == first.splitlines()[-1] != second.splitlines()[0]
