"""One attempt at a call, through the anthropic SDK. The only module that imports it.

The SDK's own retries are off: each attempt must take from the shared limits, so they are the port's. Answers that may be
long, or are thought about, are streamed, since the SDK refuses to wait for them otherwise, and a cut stream tells
what it has cost.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2

from llm.config import Config
from llm.errors import CallFailed, Retry
from llm.types import BatchState, Reply, Request, Usage
from llm.wire import arguments, reply_of, usage_of

CONNECT_S = 10.0
POOL = 25  # connections of one client
NO_KEY = "none"  # a server of one's own wants none, and the SDK wants one
PASSING = (408, 409, 429)
PASSING_TYPES = ("overloaded_error", "rate_limit_error", "api_error", "timeout_error")
HINTS = {401: "check ANTHROPIC_API_KEY", 403: "the key may not do this", 404: "the server does not know the model or has no Messages API"}


class Messages:
    """A connection to a server of the Messages API, for one event loop."""

    def __init__(self, config: Config) -> None:
        config.require_ready()
        self._config = config
        self._tls = httpx2.create_ssl_context()  # reads all certificates: once for all clients
        self._clients: list[anthropic.AsyncAnthropic] = []
        self._busy: list[int] = []

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    @contextmanager
    def _client(self) -> Iterator[anthropic.AsyncAnthropic]:
        """A client with room. The pool of one costs more with each connection, so there is one for every few dozen."""
        place = next((i for i, n in enumerate(self._busy) if n < POOL), len(self._clients))
        if place == len(self._clients):
            self._clients.append(self._connect())
            self._busy.append(0)
        self._busy[place] += 1
        try:
            yield self._clients[place]
        finally:
            self._busy[place] -= 1

    def _connect(self) -> anthropic.AsyncAnthropic:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=POOL)
        return anthropic.AsyncAnthropic(
            api_key=self._config.api_key or NO_KEY,
            base_url=self._config.base_url or None,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(limits=limits, verify=self._tls),
        )

    async def attempt(self, request: Request) -> Reply:
        """Raises Retry or CallFailed."""
        lost = [Usage()]
        try:
            async with asyncio.timeout(request.timeout_s):
                return await (self._stream(request, lost) if request.is_streamed else self._create(request))
        except TimeoutError as error:
            raise Retry(f"no answer within {request.timeout_s:g} s", lost=lost[0]) from error
        except anthropic.APIStatusError as error:
            raise _judge(error, lost[0]) from error
        except (anthropic.APIConnectionError, httpx2.HTTPError) as error:
            raise Retry(f"the connection broke: {_told(error)}", lost=lost[0]) from error
        except (anthropic.APIError, ValueError) as error:
            raise Retry(f"the server's answer can't be read: {_told(error)}", lost=lost[0]) from error

    async def _create(self, request: Request) -> Reply:
        with self._client() as client:
            raw = await client.messages.with_raw_response.create(**arguments(request), timeout=_timeout(request))
        message = await raw.parse()
        if getattr(message, "content", None) is None:  # the SDK hands on whatever came with a 200
            raise Retry("the server's answer is no message")
        return reply_of(message, raw.headers.get("request-id", ""))

    async def _stream(self, request: Request, lost: list[Usage]) -> Reply:
        with self._client() as client:
            return await self._read_stream(client, request, lost)

    @staticmethod
    async def _read_stream(client: anthropic.AsyncAnthropic, request: Request, lost: list[Usage]) -> Reply:
        async with client.messages.stream(**arguments(request), timeout=_timeout(request)) as stream:
            started = False
            async for event in stream:
                if event.type == "message_start":
                    started = True
                if event.type in ("message_start", "message_delta"):
                    lost[0] = usage_of(stream.current_message_snapshot.usage)
            if not started or not stream.current_message_snapshot.stop_reason:
                raise Retry("the stream ended before the answer did", lost=lost[0])
            return reply_of(stream.current_message_snapshot, stream.request_id or "")

    # --- batches ---

    async def submit(self, requests: Sequence[Request]) -> str:
        """The id of a new batch; each request is known in it by its hash."""
        rows: Any = [{"custom_id": request.sha256, "params": arguments(request)} for request in requests]
        with self._client() as client:
            return str((await self._try(client.messages.batches.create(requests=rows))).id)

    async def batch_state(self, batch_id: str) -> BatchState:
        with self._client() as client:
            batch = await self._try(client.messages.batches.retrieve(batch_id))
        n = batch.request_counts
        return BatchState(batch.id, batch.processing_status == "ended", n.processing, n.succeeded, n.errored + n.canceled + n.expired)

    async def cancel_batch(self, batch_id: str) -> None:
        with self._client() as client:
            await self._try(client.messages.batches.cancel(batch_id))

    async def batch_results(self, batch_id: str) -> AsyncIterator[tuple[str, Reply | CallFailed]]:
        """(request hash, reply or why there is none), in the server's order, which is any. Read as it comes."""
        with self._client() as client:
            async for row in await self._try(client.messages.batches.results(batch_id)):
                yield row.custom_id, _batch_result(row.result)

    @staticmethod
    async def _try(awaitable: Any) -> Any:
        try:
            return await awaitable
        except anthropic.APIStatusError as error:
            raise _judge(error, Usage()) from error
        except (anthropic.APIConnectionError, httpx2.HTTPError) as error:
            raise Retry(f"the connection broke: {_told(error)}") from error


def _batch_result(result: Any) -> Reply | CallFailed:
    if result.type == "succeeded":
        return reply_of(result.message)
    if result.type == "errored":
        return CallFailed(f"the batch's request failed: {_error_text(result.error)}")
    return CallFailed(f"the batch's request was not made: {result.type}")


def _timeout(request: Request) -> httpx2.Timeout:
    return httpx2.Timeout(request.timeout_s, connect=min(CONNECT_S, request.timeout_s))


def _judge(error: anthropic.APIStatusError, lost: Usage) -> Exception:
    """Whether to try again. An error inside a stream comes with the status 200 of its beginning."""
    status, kind = error.status_code, str(error.type or "")
    text = f"{status if status != 200 else kind}: {(error.api_message or error.message)[:500]}"
    asked = error.response.headers.get("x-should-retry", "")
    may_pass = status in PASSING or status >= 500 or kind in PASSING_TYPES
    if asked == "false" or not (may_pass or asked == "true"):
        hint = HINTS.get(status)
        return CallFailed(f"the server refused the call, {text}" + (f" ({hint})" if hint else ""), status=status)
    return Retry(text, status=status, after_s=_retry_after(error.response.headers), lost=lost)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds, from milliseconds, seconds or a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    date = email.utils.parsedate_tz(headers.get("retry-after"))
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


def _error_text(response: Any) -> str:
    return str(getattr(getattr(response, "error", None), "message", None) or response)[:300]


def _told(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__} {cause}".strip()[:300]
