"""A server on loopback that speaks the Messages API, says what its script tells it to, and counts what it was asked.

    with MessagesApi([Status(429, retry_after="1"), Says("hello")]) as api:
        ... ANTHROPIC_BASE_URL=api.url ...
    api.asked, api.usage

Each request takes the next step of the script; after its end `otherwise` (a function of the request's body) gives the
step. It is a real HTTP server with an event loop in a thread of its own, so that hundreds may ask at once.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Writer = asyncio.StreamWriter


@dataclass(frozen=True)
class Says:
    """An answer. `blocks` in place of text for thinking and tool calls; the waits are seconds before the first byte."""

    text: str = "ok"
    blocks: tuple[Mapping[str, Any], ...] = ()
    stop_reason: str = "end_turn"
    wait_s: float = 0.0
    thinking_tokens: int = 0

    @property
    def content(self) -> list[Mapping[str, Any]]:
        return list(self.blocks) or [{"type": "text", "text": self.text}]


@dataclass(frozen=True)
class Status:
    """An error of the server."""

    status: int
    retry_after: str = ""
    kind: str = ""
    message: str = "scripted"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """An answer that breaks off: in a stream after some of its text, else in the middle of the JSON."""

    text: str = "this will never be whole, whatever you do"
    is_silent: bool = False  # the connection ends as if the stream were over


@dataclass(frozen=True)
class StreamError:
    """A stream that begins and then tells of an error."""

    kind: str = "overloaded_error"


@dataclass(frozen=True)
class Garbage:
    """A 200 whose body is no answer."""

    body: str = '{"type": "mess'


@dataclass(frozen=True)
class Hangs:
    """Accepts the request and never answers."""

    seconds: float = 30.0


@dataclass(frozen=True)
class Drops:
    """Closes the connection without a word."""


Step = Says | Status | Cut | StreamError | Garbage | Hangs | Drops
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    body: Body
    headers: Mapping[str, str]
    at: float
    path: str = "/v1/messages"


@dataclass
class Counted:
    """Tokens that the server counts for what it sent, broken answers included."""

    calls: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write


def tokens_of(value: Any) -> int:
    return max(1, len(json.dumps(value)) // 4)


class MessagesApi:
    def __init__(self, script: Iterable[Step] = (), otherwise: Callable[[Body], Step] | None = None, *, batch_polls: int = 1) -> None:
        self.script = list(script)
        self.otherwise = otherwise or (lambda body: Says())
        self.batch_polls = batch_polls
        self.asked: list[Asked] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.usage = Counted()
        self.in_flight = self.most_in_flight = 0
        self.unknown_fields: set[str] = set()  # fields that this server refuses with a 400
        self._seen_prefixes: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MessagesApi:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[Body]:
        return [asked.body for asked in self.asked if asked.path == "/v1/messages"]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    # --- HTTP ---

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: Writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        path = path.split("?")[0]
        body = json.loads(raw) if raw else {}
        self.asked.append(Asked(body, headers, time.monotonic(), path))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(writer, method, path, body)
        finally:
            self.in_flight -= 1

    async def _answer(self, writer: Writer, method: str, path: str, body: Body) -> bool:
        if path.startswith("/v1/messages/batches"):
            return self._batch(writer, method, path, body)
        if path != "/v1/messages":
            return _error(writer, Status(404, message=f"no {path}"))
        if unknown := self.unknown_fields & set(body):
            return _error(writer, Status(400, message=f"{sorted(unknown)[0]}: Extra inputs are not permitted"))
        step = self.script.pop(0) if self.script else self.otherwise(body)
        if isinstance(step, Status):
            return _error(writer, step)
        if isinstance(step, Hangs | Drops):
            await asyncio.sleep(step.seconds if isinstance(step, Hangs) else 0)
            return False
        if isinstance(step, Garbage):
            return _send(writer, 200, step.body, {"content-type": "application/json"})
        if isinstance(step, Says) and step.wait_s:
            await asyncio.sleep(step.wait_s)
        return await self._stream(writer, step, body) if body.get("stream") else self._whole(writer, step, body)

    def _whole(self, writer: Writer, step: Says | Cut | StreamError, body: Body) -> bool:
        if isinstance(step, StreamError):
            return _error(writer, Status(529, kind=step.kind))
        said = step if isinstance(step, Says) else Says(step.text)
        if isinstance(step, Cut):
            text = json.dumps(message_of(said, body, self._input_usage(body), 0))
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text[:60]}".encode())
            return False
        message = self.count(said, body)
        return _send(writer, 200, json.dumps(message), {"content-type": "application/json", "request-id": f"req_{len(self.asked)}"})

    # --- what an answer is and what it costs ---

    def count(self, said: Says, body: Body) -> Body:
        """The whole message, counted."""
        usage = self._input_usage(body)
        output = tokens_of(said.content) + said.thinking_tokens
        self._add(usage, output)
        return message_of(said, body, usage, output)

    def _input_usage(self, body: Body) -> dict[str, int]:
        """Tokens of the prompt; those of a system marked for the cache are written once and then read."""
        usage = {"input_tokens": tokens_of(body["messages"]), "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        for block in body.get("system", []):
            text = json.dumps(block)
            if "cache_control" not in block:
                usage["input_tokens"] += tokens_of(block)
            elif text in self._seen_prefixes:
                usage["cache_read_input_tokens"] += tokens_of(block)
            else:
                self._seen_prefixes.add(text)
                usage["cache_creation_input_tokens"] += tokens_of(block)
        return usage

    def _add(self, usage: Mapping[str, int], output: int) -> None:
        self.usage.calls += 1
        self.usage.input += usage["input_tokens"]
        self.usage.cache_write += usage["cache_creation_input_tokens"]
        self.usage.cache_read += usage["cache_read_input_tokens"]
        self.usage.output += output

    # --- streams ---

    async def _stream(self, writer: Writer, step: Says | Cut | StreamError, body: Body) -> bool:
        said = step if isinstance(step, Says) else Says(getattr(step, "text", "half"))
        usage = self._input_usage(body)
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_{len(self.asked)}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(head.encode())
        events = list(stream_events(said, body, usage))
        if not isinstance(step, Says):
            events = events[:3]  # the message, its first block, its first piece of text
            self._add(usage, 0)
        for event in events:
            _chunk(writer, event)
        if isinstance(step, Says):
            self._add(usage, tokens_of(said.content) + said.thinking_tokens)
        if isinstance(step, StreamError):
            _chunk(writer, {"type": "error", "error": {"type": step.kind, "message": "scripted"}})
        if isinstance(step, Cut) and not step.is_silent:
            await writer.drain()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    # --- batches ---

    def _batch(self, writer: Writer, method: str, path: str, body: Body) -> bool:
        parts = path.removeprefix("/v1/messages/batches").strip("/").split("/")
        if method == "POST" and parts == [""]:
            batch_id = f"msgbatch_{len(self.batches) + 1}"
            self.batches[batch_id] = {"requests": body["requests"], "polls": 0}
            return _send(writer, 200, json.dumps(self._batch_json(batch_id)), {"content-type": "application/json"})
        if parts[0] not in self.batches:
            return _error(writer, Status(404, message=f"no batch {parts[0]}"))
        if parts[1:] == ["results"]:
            return _send(writer, 200, self._batch_results(parts[0]), {"content-type": "application/x-jsonl"})
        self.batches[parts[0]]["polls"] += 1
        return _send(writer, 200, json.dumps(self._batch_json(parts[0])), {"content-type": "application/json"})

    def _batch_json(self, batch_id: str) -> Body:
        batch = self.batches[batch_id]
        is_ended = batch["polls"] >= self.batch_polls
        n, day = len(batch["requests"]), "2026-11-25T12:00:00Z"
        counts = {"processing": 0 if is_ended else n, "succeeded": n if is_ended else 0, "errored": 0, "canceled": 0, "expired": 0}
        return {
            **{"id": batch_id, "type": "message_batch", "processing_status": "ended" if is_ended else "in_progress"},
            **{"request_counts": counts, "created_at": day, "expires_at": day, "ended_at": day if is_ended else None},
            "results_url": f"{self.url}/v1/messages/batches/{batch_id}/results" if is_ended else None,
        }

    def _batch_results(self, batch_id: str) -> str:
        """One line a request, out of order; a Status in the script is a request that failed."""
        rows = list(self.batches[batch_id]["requests"])
        random.Random(7).shuffle(rows)
        return "".join(json.dumps({"custom_id": row["custom_id"], "result": self._batch_result(row["params"])}) + "\n" for row in rows)

    def _batch_result(self, params: Body) -> Body:
        step = self.otherwise(params)
        if isinstance(step, Status):
            error = {"type": step.kind or KINDS.get(step.status, "api_error"), "message": step.message}
            return {"type": "errored", "error": {"type": "error", "error": error}}
        if not isinstance(step, Says):
            return {"type": "expired"}
        return {"type": "succeeded", "message": self.count(step, params)}


def message_of(said: Says, body: Body, usage: Mapping[str, int], output: int) -> Body:
    details = {"output_tokens_details": {"thinking_tokens": said.thinking_tokens}} if said.thinking_tokens else {}
    return {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None},
        **{"content": said.content, "stop_reason": said.stop_reason, "usage": {**usage, "output_tokens": output, **details}},
    }


def stream_events(said: Says, body: Body, usage: Mapping[str, int]) -> Iterable[Body]:
    start = message_of(Says(""), body, usage, 0)
    yield {"type": "message_start", "message": {**start, "content": [], "stop_reason": None}}
    for index, block in enumerate(said.content):
        empty, deltas = _pieces(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    output = {"output_tokens": tokens_of(said.content) + said.thinking_tokens}
    if said.thinking_tokens:
        output |= {"output_tokens_details": {"thinking_tokens": said.thinking_tokens}}
    yield {"type": "message_delta", "delta": {"stop_reason": said.stop_reason, "stop_sequence": None}, "usage": output}
    yield {"type": "message_stop"}


def _pieces(block: Mapping[str, Any]) -> tuple[Body, list[Body]]:
    if block["type"] == "text":
        half = len(block["text"]) // 2
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": part} for part in (block["text"][:half], block["text"][half:])]
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}, {"type": "signature_delta", "signature": block["signature"]}]
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if block["type"] == "tool_use":
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    return dict(block), []


def thinking(text: str = "Let me see.") -> Body:
    return {"type": "thinking", "thinking": text, "signature": "c2lnbmVk"}


def tool_use(name: str, given: Mapping[str, Any], call_id: str = "toolu_1") -> Body:
    return {"type": "tool_use", "id": call_id, "name": name, "input": dict(given)}


def _chunk(writer: Writer, event: Body) -> None:
    data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _error(writer: Writer, step: Status) -> bool:
    kind = step.kind or KINDS.get(step.status, "api_error")
    headers = {"content-type": "application/json", **step.headers}
    if step.retry_after:
        headers["retry-after"] = step.retry_after
    return _send(writer, step.status, json.dumps({"type": "error", "error": {"type": kind, "message": step.message}}), headers)


def _send(writer: Writer, status: int, text: str, headers: Mapping[str, str]) -> bool:
    data = text.encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(data)}\r\n\r\n".encode() + data)
    return True
