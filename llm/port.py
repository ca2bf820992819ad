"""The port: everything that asks a model goes through `Port.ask`.

In this order: the call cache; the run's budget; a place among the calls in flight; the limits shared by all workers; the
attempts, with back-off; the price; the store. The reply is stored before it is returned.

    async with connect(read_config()) as port:
        reply = await port.ask(Request(model="claude-opus-5-5", turns=(ask("Hello"),)), scope="run 7")

A port belongs to one event loop; hundreds of calls may wait in it at once.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from llm.budget import Amount, Budget, Ledger
from llm.calls import Calls, SqliteCalls
from llm.config import Config
from llm.errors import CallFailed, Retry
from llm.limits import Buckets, Limiter, SqliteBuckets
from llm.prices import Prices
from llm.types import Reply, Request, Usage

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
LONGEST_ASKED_S = 600.0  # a server that asks to wait longer is told to people instead
MONEY_POLL_S = 0.05
CHARS_A_TOKEN, FEWEST_CHARS_A_TOKEN = 3.5, 2.0
USUAL_OUTPUT = 2_000

Result = TypeVar("Result")


class Backend(Protocol):
    async def attempt(self, request: Request) -> Reply: ...


@dataclass(frozen=True)
class Held:
    """What is set aside for a call, and its key in the ledger."""

    worst: Amount
    key: str


@dataclass
class Port:
    """`calls` may be None (nothing is kept), and `limiter` (no limits)."""

    backend: Backend
    prices: Prices
    calls: Calls | None = None
    limiter: Limiter | None = None
    in_flight: int = 100
    attempts: int = 8
    structure: str = "auto"
    first_wait_s: float = FIRST_WAIT_S

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.in_flight)
        # Store and limits block, and some are bound to a thread: one thread for all of that.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llm")
        self._is_closing = False
        self.modes: dict[str, str] = {}  # model -> how it answers in a form (structure.py)

    async def blocking(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run what blocks in the port's own thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def close(self) -> None:
        self._is_closing = True
        for kept in (self.calls, self.limiter.buckets if self.limiter else None):
            if kept is not None:
                await self.blocking(kept.close)
        self._thread.shutdown()

    async def ask(self, request: Request, *, scope: str = "", budget: Budget | None = None) -> Reply:
        """The reply, from the call cache if the same request was answered before. Raises CallFailed, BudgetSpent."""
        sha256 = request.sha256
        if self.calls and (found := await self.blocking(self.calls.find, sha256)):
            return replace(found, is_from_cache=True)
        async with self._places:
            held = await self._hold(request, budget) if budget else None
            used = None
            try:
                reply = await self._attempt(request, scope)
                if self.calls:
                    await asyncio.shield(self.blocking(self.calls.save, sha256, scope, reply))
                used = Amount(reply.cost_usd or 0.0, reply.usage.total, 1)
                return reply
            except Lost as error:
                used = error.used
                raise CallFailed(str(error), status=error.status, attempts=error.attempts) from error
            finally:
                if budget and held:
                    budget.settle(held.worst, used or Amount(calls=1))
                    self._settle(budget.ledger, held.key, is_known=used is not None)

    async def _hold(self, request: Request, budget: Budget) -> Held:
        """Set aside what the call costs at worst: in this process, then among all that work on the run."""
        tokens = worst_usage(request)
        cost = self.prices.cost(request.model, tokens)
        held = Held(Amount(cost or 0.0, tokens.total, 1), uuid.uuid4().hex)
        while True:
            if budget.hold(held.worst, has_price=cost is not None):
                if budget.ledger is None or budget.usd is None or await self._hold_for_all(budget, held):
                    return held
                budget.rest()
            await asyncio.sleep(MONEY_POLL_S)

    async def _hold_for_all(self, budget: Budget, held: Held) -> bool:
        is_held = False
        assert budget.ledger is not None
        try:
            is_held = await self.blocking(budget.ledger.hold, held.key, held.worst.usd, budget.usd)
        except BaseException:
            self._settle(budget.ledger, held.key, is_known=True)  # should it have been cancelled in the middle
            raise
        finally:
            if not is_held:
                budget.settle(held.worst, Amount())
        return is_held

    def _settle(self, ledger: Ledger | None, key: str, *, is_known: bool) -> None:
        """After what was begun before it, and whoever asked does not wait for it. What is not settled counts as not known."""
        if ledger is None:
            return

        def settle() -> None:
            ledger.settle(key, is_known=is_known)
            if self._is_closing:
                ledger.close()

        with suppress(RuntimeError):  # the thread has ended
            self._thread.submit(settle)

    async def _attempt(self, request: Request, scope: str) -> Reply:
        began, lost = time.monotonic(), Usage()
        tokens = int(request.chars / CHARS_A_TOKEN) + min(request.max_tokens, USUAL_OUTPUT)
        for number in range(1, self.attempts + 1):
            await self._wait_turn(tokens)
            try:
                reply = await self.backend.attempt(request)
            except Retry as error:
                lost += error.lost
                if number == self.attempts or (error.after_s or 0) > LONGEST_ASKED_S:
                    raise await self._lose(request, scope, lost, error, number) from error
                await self._back_off(error, number)
                continue
            except CallFailed as error:
                raise await self._lose(request, scope, lost, error, number) from error
            if self.limiter:
                await self.blocking(self.limiter.settle, tokens, reply.usage.total)
            usage = reply.usage + lost
            cost = self.prices.cost(request.model, usage)
            return replace(reply, usage=usage, cost_usd=cost, attempts=number, duration_s=round(time.monotonic() - began, 3))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _wait_turn(self, tokens: int) -> None:
        if self.limiter and (wait := await self.blocking(self.limiter.take, tokens)) > 0:
            await asyncio.sleep(wait)

    async def _back_off(self, error: Retry, number: int) -> None:
        """As long as the server asked, else twice as long each time; a limit that was hit holds everybody back."""
        wait = min(self.first_wait_s * 2 ** (number - 1), LONGEST_WAIT_S) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        if error.after_s is not None:
            wait = error.after_s + random.uniform(0, 0.1)  # noqa: S311
            if self.limiter and error.status in (429, 529):
                await self.blocking(self.limiter.pause, error.after_s)
        await asyncio.sleep(wait)

    async def _lose(self, request: Request, scope: str, lost: Usage, error: Retry | CallFailed, number: int) -> Lost:
        """The call has failed; what its broken attempts have cost is stored all the same."""
        cost = self.prices.cost(request.model, lost) if lost.total else 0.0
        if lost.total and self.calls:
            reply = Reply((), "failed", request.model, lost, cost_usd=cost, attempts=number)
            await self.blocking(self.calls.save, "", scope, reply)
        text = str(error)
        if isinstance(error, Retry):
            asked = f", and the server asks to wait {error.after_s:.0f} s" if (error.after_s or 0) > LONGEST_ASKED_S else ""
            text = f"no answer after {number} {'attempt' if number == 1 else 'attempts'}{asked}: {text}"
        return Lost(text, error.status, number, Amount(cost or 0.0, lost.total, 1))


def worst_usage(request: Request) -> Usage:
    """What a call may use at most."""
    return Usage(output=request.max_tokens, cache_write=int(request.chars / FEWEST_CHARS_A_TOKEN))


async def all_of(awaitables: Iterable[Awaitable[Result]]) -> list[Result]:
    """Wait until all have ended, then raise the first error: what the others paid for is stored by then."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    ended: list[Result] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        ended.append(result)
    return ended


class Lost(Exception):
    """A failed call and what it has cost; for `ask` alone."""

    def __init__(self, text: str, status: int | None, attempts: int, used: Amount) -> None:
        super().__init__(text)
        self.status, self.attempts, self.used = status, attempts, used


@asynccontextmanager
async def connect(config: Config, *, calls: Calls | None = None, buckets: Buckets | None = None) -> AsyncIterator[Port]:
    """A port to the configured server. Without `calls` and `buckets` they are kept in `config.folder`.

    Raises NotConfigured.
    """
    config.require_ready()
    from llm.messages import Messages  # noqa: PLC0415 - the SDK takes a second and 80 MB, for those who make calls

    backend = Messages(config)
    limiter = Limiter(
        buckets or SqliteBuckets(config.folder / "limits.sqlite3"),
        requests=config.requests_per_minute,
        tokens=config.tokens_per_minute,
        account=config.account,
    )
    calls = calls or SqliteCalls(config.folder / "calls.sqlite3")
    port = Port(backend, config.prices, calls, limiter, config.in_flight, config.attempts, config.structure)
    try:
        yield port
    finally:
        await port.close()
        await backend.close()
