"""Our types to the SDK's arguments and back. No temperature, adaptive thinking, summaries asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.types import Block, Reply, Request, Text, Thinking, ToolCall, ToolResult, Turn, Usage

EPHEMERAL = {"type": "ephemeral"}


def arguments(request: Request) -> dict[str, Any]:
    """The keyword arguments of messages.create, and the params of a batch's request."""
    sent: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": turn.role, "content": _content(turn)} for turn in request.turns],
    }
    if request.system:
        sent["system"] = [_block(block) for block in request.system]
    if request.tools:
        sent["tools"] = [{"name": t.name, "description": t.description, "input_schema": dict(t.schema)} for t in request.tools]
        sent["tool_choice"] = _tool_choice(request.tool_choice)
    if request.thinking:
        sent["thinking"] = {"type": "adaptive", "display": "summarized"}
    if request.effort or request.schema:
        sent["output_config"] = _output_config(request)
    return sent


def _output_config(request: Request) -> dict[str, Any]:
    config: dict[str, Any] = {"effort": request.effort} if request.effort else {}
    if request.schema:
        config["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    return config


def _tool_choice(choice: str) -> dict[str, Any]:
    return {"type": choice} if choice in ("auto", "any", "none") else {"type": "tool", "name": choice}


def _content(turn: Turn) -> list[dict[str, Any]]:
    # A server need not take back empty text, which a cut answer can hold.
    return [_block(block) for block in turn.blocks if not (isinstance(block, Text) and not block.text)]


def _block(block: Block) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text, **({"cache_control": EPHEMERAL} if block.is_cached else {})}
    if isinstance(block, ToolCall):
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": dict(block.input)}
    if isinstance(block, ToolResult):
        return {"type": "tool_result", "tool_use_id": block.call_id, "content": block.text, "is_error": block.is_error}
    if block.redacted:
        return {"type": "redacted_thinking", "data": block.redacted}
    return {"type": "thinking", "thinking": block.text, "signature": block.signature}


def reply_of(message: Any, request_id: str = "") -> Reply:
    """The Reply of an SDK message. Blocks of kinds that we never ask for are left out."""
    blocks = tuple(block for raw in message.content if (block := _from_block(raw)) is not None)
    return Reply(
        blocks=blocks,
        stop_reason=message.stop_reason or "",
        model=message.model or "",
        usage=usage_of(message.usage),
        request_id=request_id,
        message_id=message.id or "",
    )


def _from_block(raw: Any) -> Block | None:
    if raw.type == "text":
        return Text(raw.text)
    if raw.type == "thinking":
        return Thinking(raw.thinking or "", getattr(raw, "signature", "") or "")
    if raw.type == "redacted_thinking":
        return Thinking("", "", raw.data)
    if raw.type == "tool_use":
        return ToolCall(raw.id, raw.name, raw.input if isinstance(raw.input, Mapping) else {})
    return None


def usage_of(usage: Any) -> Usage:
    """Servers that are not Anthropic's leave fields out."""
    if usage is None:
        return Usage()
    details = getattr(usage, "output_tokens_details", None)
    return Usage(
        input=usage.input_tokens or 0,
        output=usage.output_tokens or 0,
        cache_read=getattr(usage, "cache_read_input_tokens", None) or 0,
        cache_write=getattr(usage, "cache_creation_input_tokens", None) or 0,
        thinking=getattr(details, "thinking_tokens", None) or 0,
    )
