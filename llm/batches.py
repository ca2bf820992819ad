"""The Message Batches API: many requests at half the price, answered within a day, in any order.

A batch is known by the hashes of its requests, and kept in the call store as soon as the server has named it; its results
go into the same call cache as single calls. So after a crash the same requests find their batch again and go on waiting,
and what a batch has answered is an ordinary cached call for whoever asks it next.

Not covered: a crash between the server's taking a batch and our storing its name. Such a batch runs unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

from llm.errors import CallFailed, Retry
from llm.port import FIRST_WAIT_S, LONGEST_WAIT_S, Port, all_of
from llm.types import BatchState, Reply, Request

LARGEST = 10_000  # requests a batch; the API takes more, and a smaller one is read sooner
LARGEST_CHARS = 150_000_000

Result = TypeVar("Result")


@runtime_checkable
class BatchBackend(Protocol):
    async def submit(self, requests: Sequence[Request]) -> str: ...
    async def batch_state(self, batch_id: str) -> BatchState: ...
    def batch_results(self, batch_id: str) -> AsyncIterator[tuple[str, Reply | CallFailed]]: ...


@dataclass
class BatchReport:
    """What became of the requests: `stored` now or before, and `failed` with reasons, by hash."""

    stored: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


class Batches:
    """Batches through a port: its store, its prices, its thread. `say` hears the state of each batch at each look."""

    def __init__(self, port: Port, *, poll_s: float = 30.0, say: Callable[[BatchState], None] | None = None) -> None:
        if not isinstance(port.backend, BatchBackend) or port.calls is None:
            raise ValueError("batches need a server's backend and a call store")
        self.port, self.backend, self.calls = port, port.backend, port.calls
        self.poll_s, self.say = poll_s, say

    async def run(self, requests: Sequence[Request], scope: str) -> BatchReport:
        """Have every request answered that is not yet: resume the scope's open batches, submit the rest, wait, store."""
        stored = await self.submit_missing(requests, scope)
        report = await self.collect(scope)
        report.stored |= stored
        return report

    async def submit_missing(self, requests: Sequence[Request], scope: str) -> set[str]:
        """Submit what is neither stored nor in an open batch of the scope; the hashes of what is stored."""
        wanted = {request.sha256: request for request in requests}
        stored = {sha256 for sha256 in wanted if await self.port.blocking(self.calls.find, sha256)}
        opened = await self.port.blocking(self.calls.open_batches, scope)
        under_way = {sha256 for _, hashes in opened for sha256 in hashes}
        for part in _parts(request for sha256, request in wanted.items() if sha256 not in stored | under_way):
            await self.submit(part, scope)
        return stored

    async def collect(self, scope: str) -> BatchReport:
        """Wait for the scope's open batches and store their results."""
        report = BatchReport()
        opened = await self.port.blocking(self.calls.open_batches, scope)
        await all_of(self._follow(batch_id, scope, report) for batch_id, _ in opened)
        return report

    async def submit(self, requests: Sequence[Request], scope: str) -> str:
        batch_id = await self._patiently(lambda: self.backend.submit(requests))
        await self.port.blocking(self.calls.add_batch, batch_id, scope, [request.sha256 for request in requests])
        return batch_id

    async def _follow(self, batch_id: str, scope: str, report: BatchReport) -> None:
        while True:
            state = await self._patiently(lambda: self.backend.batch_state(batch_id))
            if self.say:
                self.say(state)
            if state.is_ended:
                break
            await asyncio.sleep(self.poll_s)
        await self._patiently(lambda: self._collect(batch_id, scope, report))
        await self.port.blocking(self.calls.end_batch, batch_id)

    async def _collect(self, batch_id: str, scope: str, report: BatchReport) -> None:
        """Store each result as it is read; read again after a cut, what is stored already is left alone."""
        async for sha256, result in self.backend.batch_results(batch_id):
            if isinstance(result, CallFailed):
                report.failed[sha256] = str(result)
                continue
            if await self.port.blocking(self.calls.find, sha256) is None:
                cost = self.port.prices.cost(result.model, result.usage, is_batch=True)
                await self.port.blocking(self.calls.save, sha256, scope, replace(result, cost_usd=cost, request_id=batch_id))
            report.stored.add(sha256)

    async def _patiently(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        for number in range(1, self.port.attempts + 1):
            try:
                return await attempt()
            except Retry as error:
                if number == self.port.attempts:
                    raise CallFailed(f"no answer after {number} attempts: {error}", status=error.status, attempts=number) from error
                await asyncio.sleep(error.after_s if error.after_s is not None else min(FIRST_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S))
        raise AssertionError("unreachable: the last attempt returns or raises")


def _parts(requests: Iterable[Request]) -> list[list[Request]]:
    parts: list[list[Request]] = []
    chars = 0
    for request in requests:
        if not parts or len(parts[-1]) == LARGEST or chars + request.chars > LARGEST_CHARS:
            parts.append([])
            chars = 0
        parts[-1].append(request)
        chars += request.chars
    return parts
