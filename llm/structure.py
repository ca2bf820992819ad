"""An answer in a given form: asked for in the way the server has, read strictly, asked for once more if it is unusable.

Ways, best first: `native` (the server holds the answer to a JSON schema), `tool` (the answer is a tool call), `text` (the
prompt says it). With "auto" the first one that the server does not refuse is used and remembered; a server that ignores
the schema without a word answers in text, which is read all the same. The prompt must describe the form itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from llm.budget import Budget
from llm.errors import AnswerError, CallFailed
from llm.port import Port
from llm.types import Block, Reply, Request, Text, Tool, ToolResult, Turn

WAYS = ("native", "tool", "text")
TOOL = "give_answer"
CUT = ("max_tokens", "model_context_window_exceeded")
# What a server may answer to arguments that it does not know.
UNKNOWN = (400, 404, 422, 501)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Structured(Generic[Answer]):
    """The answer as `check` made it, and the calls that led to it (a second one if it had to be repaired)."""

    answer: Answer
    replies: tuple[Reply, ...]


class Unusable(AnswerError):
    """An AnswerError that knows the calls that were made."""

    def __init__(self, reason: str, text: str, replies: tuple[Reply, ...]) -> None:
        super().__init__(reason, text)
        self.replies = replies


async def ask_structured(
    port: Port,
    request: Request,
    schema: Mapping[str, Any],
    check: Callable[[Mapping[str, Any]], Answer],
    *,
    scope: str = "",
    budget: Budget | None = None,
) -> Structured[Answer]:
    """`check` turns the JSON object into the answer, or raises ValueError with what is wrong, which the model is told.

    Raises Unusable (refused, cut_off, parse_failure), CallFailed, BudgetSpent.
    """
    first, asked = await _ask_best_way(port, request, schema, scope, budget)
    try:
        return Structured(_read(first, check), (first,))
    except AnswerError as error:
        if error.reason != "parse_failure":
            raise Unusable(error.reason, str(error), (first,)) from error
        wrong = str(error)
    repair = replace(asked, turns=(*asked.turns, first.turn, _complaint(first, wrong, bool(asked.tools))))
    second = await port.ask(repair, scope=scope, budget=budget)
    try:
        return Structured(_read(second, check), (first, second))
    except AnswerError as error:
        raise Unusable(error.reason, str(error), (first, second)) from error


def in_way(request: Request, schema: Mapping[str, Any], way: str) -> Request:
    """The request as it is sent in one of the ways."""
    if way == "native":
        return replace(request, schema=schema)
    if way == "tool":
        tool = Tool(TOOL, "Hand in the answer. Call it exactly once.", schema)
        # Thinking can't be had with a forced tool.
        return replace(request, tools=(tool,), tool_choice="auto" if request.thinking else TOOL)
    return request


async def _ask_best_way(
    port: Port, request: Request, schema: Mapping[str, Any], scope: str, budget: Budget | None
) -> tuple[Reply, Request]:
    known = port.modes.get(request.model, port.structure)
    for way in WAYS if known == "auto" else (known,):
        asked = in_way(request, schema, way)
        try:
            reply = await port.ask(asked, scope=scope, budget=budget)
        except CallFailed as error:
            if known == "auto" and way != "text" and error.status in UNKNOWN:
                continue
            raise
        port.modes[request.model] = way
        return reply, asked
    raise AssertionError("unreachable: the last way returns or raises")


def _read(reply: Reply, check: Callable[[Mapping[str, Any]], Answer]) -> Answer:
    """The answer in the reply. Raises AnswerError."""
    if reply.stop_reason == "refusal":
        raise AnswerError("refused", f"the model refused to answer: {reply.text[:300]}".rstrip(": "))
    wrong = "there is no JSON object in the answer"
    for data in _candidates(reply):
        try:
            return check(data)
        except ValueError as error:
            wrong = str(error)
    if reply.stop_reason in CUT:
        raise AnswerError("cut_off", f"the answer was cut off ({reply.stop_reason}) before it was whole")
    if called := [call.name for call in reply.tool_calls if call.name != TOOL]:
        wrong = f"the tool {called[0]} was called, which does not exist"
    raise AnswerError("parse_failure", wrong)


def _candidates(reply: Reply) -> list[Mapping[str, Any]]:
    """The JSON objects that may be the answer, the likeliest first."""
    calls = [call.input for call in reply.tool_calls if call.name == TOOL]
    return [*calls, *reversed(find_objects(reply.text))]


def find_objects(text: str) -> list[Mapping[str, Any]]:
    """Every JSON object in a text that is not inside another one, in order. NaN and Infinity are no JSON."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    found, at = [], text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found.append(value)
        at = text.find("{", end)
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _complaint(reply: Reply, wrong: str, has_tool: bool) -> Turn:
    """What the model is told of an unusable answer: each of its tool calls must be answered."""
    results: list[Block] = [ToolResult(call.id, f"Not accepted: {wrong}", is_error=True) for call in reply.tool_calls]
    how = f"Call {TOOL} with the whole answer." if has_tool else "Answer again with the one JSON object and nothing else."
    return Turn("user", (*results, Text(f"Your answer could not be used: {wrong}. {how}")))
