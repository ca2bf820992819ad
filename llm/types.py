"""Request and Reply: what we ask a model and what comes back, in our words. Frozen, JSON in and out.

A Reply keeps every block as it came, with thinking and its signature, so that it can stand in the next request's turns
as the API wants it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

Effort = Literal["low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
STREAM_FROM = 8_000  # max_tokens from which an answer is streamed: the SDK refuses to wait for long ones


@dataclass(frozen=True)
class Text:
    """`is_cached`: what stands up to here is the same in many requests, so the server should keep it."""

    text: str
    is_cached: bool = False
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Thinking:
    """What the model thought, summarised; `signature` proves it to the server. `redacted` holds it encrypted."""

    text: str
    signature: str = ""
    redacted: str = ""
    kind: Literal["thinking"] = "thinking"


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    input: Mapping[str, Any]
    kind: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True)
class ToolResult:
    call_id: str
    text: str
    is_error: bool = False
    kind: Literal["tool_result"] = "tool_result"


Block = Text | Thinking | ToolCall | ToolResult
KINDS: dict[str, type[Block]] = {"text": Text, "thinking": Thinking, "tool_call": ToolCall, "tool_result": ToolResult}


@dataclass(frozen=True)
class Turn:
    role: Literal["user", "assistant"]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Tool:
    """Something that the model may call. `schema` is a JSON schema of an object."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One call. There is no temperature any more: vary `nonce` to ask the same thing again.

    effort: how hard to think, None for a model (or a server) that knows no effort. thinking: adaptive, shown summarised.
    tool_choice: "auto", "any", "none" or a tool's name. schema: the answer's JSON schema, where the server has that.
    timeout_s: all of one attempt. nonce: not sent; requests that differ in it alone are different calls.
    """

    model: str
    turns: tuple[Turn, ...]
    system: tuple[Text, ...] = ()
    max_tokens: int = 4_000
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    effort: Effort | None = None
    thinking: bool = False
    schema: Mapping[str, Any] | None = None
    timeout_s: float = 600.0
    nonce: str = ""

    @cached_property
    def sha256(self) -> str:
        """The name of this call in the call cache."""
        told = {name: value for name, value in asdict(self).items() if name != "timeout_s"}
        text = json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def is_streamed(self) -> bool:
        return self.thinking or self.max_tokens >= STREAM_FROM

    @cached_property
    def chars(self) -> int:
        """Characters that are sent, roughly: what the limits and the budget estimate tokens from."""
        told = [*map(asdict, self.system), *map(asdict, self.turns), *map(asdict, self.tools)]
        return len(json.dumps(told, ensure_ascii=False))


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them. `input` is without the cached ones; `thinking` is part of `output`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    thinking: int = 0

    def __add__(self, other: Usage) -> Usage:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Usage(*(mine + theirs for mine, theirs in pairs))

    @property
    def total(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write


@dataclass(frozen=True)
class Reply:
    """What came back. `usage` includes attempts that broke off in the middle; `cost_usd` is None without a price."""

    blocks: tuple[Block, ...]
    stop_reason: str
    model: str
    usage: Usage = field(default_factory=Usage)
    request_id: str = ""
    message_id: str = ""
    cost_usd: float | None = None
    attempts: int = 1
    duration_s: float = 0.0
    is_from_cache: bool = False

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks if isinstance(block, Text))

    @property
    def thinking(self) -> str:
        return "\n\n".join(block.text for block in self.blocks if isinstance(block, Thinking) and block.text)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(block for block in self.blocks if isinstance(block, ToolCall))

    @property
    def turn(self) -> Turn:
        """The reply as a turn of the next request."""
        return Turn("assistant", self.blocks)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["is_from_cache"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reply:
        blocks = tuple(KINDS[block["kind"]](**block) for block in data["blocks"])
        return cls(**{**data, "blocks": blocks, "usage": Usage(**data["usage"])})


@dataclass(frozen=True)
class BatchState:
    """`is_ended`: its results can be read. Counts are the server's."""

    id: str
    is_ended: bool
    processing: int
    succeeded: int
    failed: int


def ask(text: str) -> Turn:
    """A user's turn of plain text."""
    return Turn("user", (Text(text),))
