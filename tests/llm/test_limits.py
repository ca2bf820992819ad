"""Limits and budgets: requests and tokens a minute over all workers, and money that a run never goes above."""

import asyncio
import itertools
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llm.budget import Amount, Budget
from llm.calls import SqliteCalls
from llm.errors import BudgetSpent
from llm.limits import Limiter, SqliteBuckets
from llm.prices import Prices, read_table
from llm.types import Usage
from tests.llm.calling import ask_many, request, with_port
from tests.messages_api import MessagesApi, Says

ROOT = Path(__file__).parents[2]


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


def most_in_a_minute(moments):
    moments = sorted(moments)
    return max(sum(1 for other in moments[i:] if other < moment + 60) for i, moment in enumerate(moments))


def limiter(tmp_path, clock, **limits):
    return Limiter(SqliteBuckets(tmp_path / "limits.sqlite3"), clock=clock, **limits)


def test_600_a_minute_are_never_exceeded_however_the_calls_come(tmp_path):
    clock, rng, sent = Clock(), random.Random(1), []
    limits = limiter(tmp_path, clock, requests=600)
    for _ in range(3000):
        sent.append(clock.now + limits.take(10) + rng.uniform(0, 0.9))  # a request travels for up to 0.9 s
        if rng.random() < 0.01:
            clock.now += rng.choice([1, 20, 90])
    assert most_in_a_minute(sent) <= 600


def test_the_limit_is_used_to_nine_tenths(tmp_path):
    clock = Clock()
    limits = limiter(tmp_path, clock, requests=600)
    assert max(limits.take(10) for _ in range(6000)) < 60 * 10 / 0.9


def test_a_pause_of_the_server_does_not_end_in_a_rush(tmp_path):
    clock = Clock()
    limits = limiter(tmp_path, clock, requests=60)
    limits.pause(30)
    sent = [limits.take(10) for _ in range(200)]
    assert min(sent) >= 30
    assert most_in_a_minute(sent) <= 60


def test_tokens_a_minute_hold_too_and_are_settled_to_what_was_used(tmp_path):
    clock = Clock()
    limits = limiter(tmp_path, clock, tokens=10_000)
    for _ in range(10):
        limits.take(5_000)
    waits_as_taken = limits.take(1)
    for _ in range(10):
        limits.settle(5_000, 100)
    assert waits_as_taken > 250
    assert limits.take(1) < 10


def test_a_request_above_the_limit_of_tokens_is_let_through_alone(tmp_path):
    assert limiter(tmp_path, Clock(), tokens=1_000).take(50_000) <= 61


SHARER = """
    import sys, time
    from pathlib import Path
    from llm.limits import Limiter, SqliteBuckets
    limits = Limiter(SqliteBuckets(Path(sys.argv[1])), requests=600, clock=lambda: 1000.0)
    print(*[round(limits.take(1), 4) for _ in range(400)])
"""


def test_workers_share_the_limit(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(SHARER), str(tmp_path / "limits.sqlite3")]
    programs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sent = sorted(float(word) for program in programs for word in program.communicate()[0].split())
    assert len(sent) == 1200
    assert most_in_a_minute(sent) <= 600
    assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(sent[40:]))


def test_calls_through_the_port_keep_to_the_limit(tmp_path):
    with MessagesApi() as api:
        ask_many(api, tmp_path, [request() for _ in range(60)], LLM_REQUESTS_PER_MINUTE="600")
    times = sorted(asked.at for asked in api.asked)
    assert times[-1] - times[0] > 1.5  # 30 at once, then nine a second


def test_a_run_never_spends_more_than_its_limit_and_uses_most_of_it(tmp_path):
    with MessagesApi(otherwise=lambda body: Says("x" * 4000)) as api:
        budget = Budget(usd=0.5)

        async def work(port):
            asked = [port.ask(request(max_tokens=2000), scope="run", budget=budget) for _ in range(60)]
            return await asyncio.gather(*asked, return_exceptions=True)

        results = with_port(api, tmp_path, work)
    spent = SqliteCalls(tmp_path / "llm" / "calls.sqlite3").totals("run").cost_usd
    stopped = [result for result in results if isinstance(result, BudgetSpent)]
    assert 0.4 < spent <= 0.5
    assert len(stopped) == 60 - api.usage.calls > 0
    assert "spending limit of $0.50" in str(stopped[0])
    assert budget.spent.usd == pytest.approx(spent)


def test_what_a_run_has_spent_before_counts():
    budget = Budget(usd=1.0, spent=Amount(usd=0.95))
    with pytest.raises(BudgetSpent, match=r"spending limit of \$1.00: \$0.9500 is spent, and the next call may use \$0.1000"):
        budget.hold(Amount(usd=0.1))


def test_a_call_waits_while_others_may_give_money_back():
    budget = Budget(usd=1.0)
    assert budget.hold(Amount(usd=0.7))
    assert not budget.hold(Amount(usd=0.7))
    budget.settle(Amount(usd=0.7), Amount(usd=0.1))
    assert budget.hold(Amount(usd=0.7))


@pytest.mark.parametrize(("limits", "what"), [({"tokens": 10}, "token limit of 10"), ({"calls": 0}, "call limit of 0")])
def test_tokens_and_calls_can_be_limited_too(limits, what):
    with pytest.raises(BudgetSpent, match=what):
        Budget(**limits).hold(Amount(0.0, 11, 1))


def test_a_model_without_a_price_can_not_run_on_a_spending_limit():
    with pytest.raises(BudgetSpent, match="no known price: give one in LLM_PRICES"):
        Budget(usd=1.0).hold(Amount(), has_price=False)


def test_an_unknown_price_is_no_price_and_not_zero():
    assert Prices().cost("my-local-model", Usage(1000, 1000)) is None


def test_prices_can_be_overridden_and_a_batch_costs_half():
    prices = Prices(read_table('{"m": {"input": 3, "output": 15, "cache_read": 0.3}}'))
    usage = Usage(input=1_000_000, output=100_000, cache_read=1_000_000, cache_write=1_000_000)
    assert prices.cost("m", usage) == pytest.approx(3 + 1.5 + 0.3 + 3)
    assert prices.cost("m", usage, is_batch=True) == pytest.approx(7.8 / 2)


@pytest.mark.parametrize(
    "text", ["{", '{"m": {"input": 1}}', '{"m": {"input": -1, "output": 1}}', '{"m": {"input": 1, "output": 1, "x": 1}}']
)
def test_a_wrong_price_table_says_what_is_wrong(text):
    with pytest.raises(ValueError, match="LLM_PRICES"):
        read_table(text)
