"""A transcript as a list of entries to draw, whatever shape its messages have.

Known: plain text, Anthropic's content blocks, and OpenAI's `tool_calls`. An unknown block is shown as JSON, but of a
message only role, name and content are: other fields may name the model, which a blind reviewer must not see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString, mark_safe

from reviewapp.review.rendering.guards import visible

ENTRIES_SHOWN = 400
ENTRY_CHARS = 20_000


@dataclass(frozen=True)
class Entry:
    """`kind` is text, thinking, call or result; the last three are folded."""

    role: str
    kind: str
    title: str
    html: SafeString
    length: int


def entries_of(transcript: Any) -> tuple[list[Entry], int]:
    """(the entries to show, how many there are)."""
    messages = transcript if isinstance(transcript, Sequence) and not isinstance(transcript, str) else []
    entries = [entry for message in messages if isinstance(message, Mapping) for entry in _entries(message)]
    return entries[:ENTRIES_SHOWN], len(entries)


def _entries(message: Mapping[str, Any]) -> Iterator[Entry]:
    role = str(message.get("role", "unknown"))
    name = str(message.get("name") or message.get("function") or "")
    for field in ("thinking", "reasoning"):
        if message.get(field):
            yield _entry(role, "thinking", "Thinking", message[field])
    content = message.get("content")
    blocks = content if isinstance(content, list) else [content] if content else []
    for block in blocks:
        yield _block(role, name, block)
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        called = function.get("name", "tool") if isinstance(function, Mapping) else str(function)
        arguments = function.get("arguments", "") if isinstance(function, Mapping) else call.get("arguments", "")
        yield _entry(role, "call", f"Calls {called}", arguments)


def _block(role: str, name: str, block: Any) -> Entry:
    if not isinstance(block, Mapping):
        kind = "result" if role == "tool" else "text"
        return _entry(role, kind, f"{name or 'Tool'} answers" if kind == "result" else "", block)
    match block.get("type"):
        case "text":
            return _entry(role, "result" if role == "tool" else "text", name, block.get("text", ""))
        case "thinking" | "reasoning":
            return _entry(role, "thinking", "Thinking", block.get("thinking") or block.get("reasoning") or block.get("text", ""))
        case "redacted_thinking":
            return _entry(role, "thinking", "Thinking (redacted)", "")
        case "tool_use" | "server_tool_use":
            return _entry(role, "call", f"Calls {block.get('name', 'tool')}", block.get("input", ""))
        case "tool_result":
            return _entry("tool", "result", "Tool answers", block.get("content", ""))
        case other:
            return _entry(role, "call", str(other or "block"), {k: v for k, v in block.items() if k != "type"})


def _entry(role: str, kind: str, title: str, content: Any) -> Entry:
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
    shown = visible(text[:ENTRY_CHARS])
    if len(text) > ENTRY_CHARS:
        shown += f'<span class="folded">… {len(text) - ENTRY_CHARS:,} more characters</span>'
    return Entry(role, kind, title, mark_safe(shown), len(text))  # noqa: S308 - `visible` has escaped it
