"""The rollout loop: a model is asked a task's prompt, calls tools until it hands in, and all of it is kept.

It is our own loop, so that the transcript is what was sent: `Rollout.transcript` holds the messages of the Messages API, with
thinking and its signatures, calls and results. Tools are handed in from above. Every call goes through the port, whose store
answers a repeated one; with a `Notes` for the results of tools, a rollout that was cut off goes on where it was, and pays for
no finished call again.

It stops when the model hands in, refuses, or a limit is reached. At a limit of turns, tokens or seconds the model is asked once
more, without tools, to hand in what it has; a limit of money, and a server that fails, leave no output.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import llm.types
from llm import wire
from llm.budget import Budget
from llm.errors import BudgetSpent
from llm.port import Port
from llm.types import Block, Effort, Reply, Request, Text, ToolCall, ToolResult, Turn, Usage
from tasks.task import Task, Variant
from tasks.tools.errors import ToolError
from tasks.tools.tool import Tool

LAST_TURN = "You have reached the limit of {limit}. Hand in your answer now, with what you have; no tool can be called any more."
CUT_CALL = "your call was cut off before it was whole: keep what you write before a call short"
NOTHING = {"handed_in": "there is no answer in the model's last turn", "cut_off": "the answer was cut off before there was anything to use"}
UNFINISHED = ("pause_turn",)
CUT = ("max_tokens", "model_context_window_exceeded")
LONGEST_TOOL_S = 300.0
FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Of one rollout. `answer_tokens`: at most so many a call, thinking included."""

    turns: int = 50
    tokens: int = 1_000_000
    seconds: float = 1_800.0
    usd: float | None = None
    answer_tokens: int = 16_000


@dataclass(frozen=True)
class Rollout:
    """`stop_reason`: handed_in, refusal, cut_off (its answer was too long), turns, tokens, seconds, usd, or no_output.

    `output` is what the task's contract takes of the last answer; empty with `missing`, which says why.
    """

    output: str
    missing: str
    stop_reason: str
    transcript: tuple[dict[str, Any], ...]
    model: str
    usage: Usage
    cost_usd: float | None
    turns: int
    tool_calls: int
    duration_s: float


class Notes(Protocol):
    """Results of tools, kept so that a rollout which starts again tells the model the same."""

    def find(self, key: str) -> tuple[str, bool] | None: ...

    def save(self, key: str, text: str, is_error: bool) -> None: ...


@dataclass(frozen=True)
class Settings:
    """`nonce` makes samples of one prompt different calls; `scope` is the run that pays."""

    model: str
    limits: Limits = field(default_factory=Limits)
    effort: Effort | None = None
    thinking: bool = False
    scope: str = ""
    nonce: str = ""
    budget: Budget | None = None
    timeout_s: float = 600.0


Say = Callable[[str], None]


async def roll_out(
    port: Port,
    task: Task,
    variant: Variant,
    tools: Sequence[Tool],
    settings: Settings,
    *,
    notes: Notes | None = None,
    say: Say = lambda text: None,
) -> Rollout:
    """One rollout. Raises llm.errors.CallFailed or NotConfigured; what `say` raises ends it, too."""
    return await _Loop(port, task, variant, {tool.name: tool for tool in tools}, settings, notes, say).run()


@dataclass
class _Loop:
    port: Port
    task: Task
    variant: Variant
    tools: Mapping[str, Tool]
    settings: Settings
    notes: Notes | None
    say: Say

    def __post_init__(self) -> None:
        self.messages: list[Turn] = [Turn("user", _prompt(self.variant, self.task.starter))]
        self.usage, self.cost = Usage(), 0.0
        self.is_priced = True
        self.turns = self.tool_calls = 0
        self.began = time.monotonic()
        self.stopped_by = ""

    async def run(self) -> Rollout:
        while True:
            self.say(f"turn {self.turns + 1}, {self.tool_calls} tool calls, {self.usage.total:,} tokens")
            try:
                reply = await self._ask()
            except BudgetSpent as error:
                return self._end(None, "usd", str(error))
            self.messages.append(reply.turn)
            if end := self._why_end(reply):
                return end
            # Without a call the server asks to be asked again with what there is (pause_turn).
            if reply.tool_calls:
                await self._answer_calls(reply)

    def _why_end(self, reply: Reply) -> Rollout | None:
        """The rollout, if this reply is the end of it."""
        limits = self.settings.limits
        if limits.usd is not None and self.cost > limits.usd:
            return self._end(None, "usd", f"its limit of ${limits.usd:.2f} is spent")
        if reply.stop_reason == "refusal":
            return self._end(None, "refusal", f"the model refused: {reply.text[:300]}".rstrip(": "))
        if self.stopped_by:
            return self._end(reply, self.stopped_by)
        if reply.tool_calls:
            return None
        if reply.stop_reason in UNFINISHED:
            limit = self._reached()
            return self._end(reply, limit) if limit else None
        return self._end(reply, "cut_off" if reply.stop_reason in CUT else "handed_in")

    async def _ask(self) -> Reply:
        self.turns += 1
        limits, settings = self.settings.limits, self.settings
        request = Request(
            model=settings.model,
            turns=tuple(self.messages),
            max_tokens=limits.answer_tokens,
            tools=tuple(tool.spec for tool in self.tools.values()),
            # The tools stay: a server wants those that its history calls.
            tool_choice="none" if self.stopped_by and self.tools else "auto",
            effort=settings.effort,
            thinking=settings.thinking,
            timeout_s=settings.timeout_s,
            nonce=settings.nonce,
        )
        reply = await self.port.ask(request, scope=settings.scope, budget=settings.budget)
        self.usage += reply.usage
        self.cost += reply.cost_usd or 0.0
        self.is_priced = self.is_priced and reply.cost_usd is not None
        return reply

    def _reached(self) -> str:
        """The limit that the next call would break, in the words of stop_reason."""
        limits = self.settings.limits
        if self.turns >= limits.turns - 1:
            return "turns"
        if self.usage.total >= limits.tokens:
            return "tokens"
        return "seconds" if time.monotonic() - self.began >= limits.seconds else ""

    async def _answer_calls(self, reply: Reply) -> None:
        """The results of all calls in one turn; at a limit also that this is the end."""
        limit = self._reached()
        is_cut = reply.stop_reason in CUT
        results = await asyncio.gather(*(self._result(call, number, is_cut) for number, call in enumerate(reply.tool_calls)))
        blocks: list[Block] = list(results)
        if limit:
            self.stopped_by = limit
            told = {"turns": f"{self.settings.limits.turns} turns", "tokens": f"{self.settings.limits.tokens:,} tokens"}
            blocks.append(Text(LAST_TURN.format(limit=told.get(limit, f"{self.settings.limits.seconds:.0f} seconds"))))
        self.messages.append(Turn("user", tuple(blocks)))

    async def _result(self, call: ToolCall, number: int, is_cut: bool) -> ToolResult:
        self.tool_calls += 1
        if is_cut:
            return ToolResult(call.id, CUT_CALL, is_error=True)
        key = _key(self.turns, number, call)
        found = await self.port.blocking(self.notes.find, key) if self.notes is not None else None
        if found is None:
            found = await self._run_tool(call)
            if self.notes is not None:
                await self.port.blocking(self.notes.save, key, *found)
        return ToolResult(call.id, found[0], is_error=found[1])

    async def _run_tool(self, call: ToolCall) -> tuple[str, bool]:
        """(what the model is told, is it an error)."""
        tool = self.tools.get(call.name)
        if tool is None:
            return f"there is no tool {call.name!r}; there are: {', '.join(self.tools) or 'none'}", True
        try:
            return await asyncio.wait_for(asyncio.to_thread(tool.call, call.input), LONGEST_TOOL_S), False
        except ToolError as error:
            return str(error), True
        except TimeoutError:
            return f"{call.name} took longer than {LONGEST_TOOL_S:.0f} s", True
        except Exception as error:  # a tool that is broken must not cost the rollout
            log.exception("tool %s broke", call.name)
            return f"{call.name} is broken: {type(error).__name__}", True

    def _end(self, reply: Reply | None, reason: str, missing: str = "") -> Rollout:
        output = output_of(reply.text, self.task.output_format) if reply else ""
        if not output:
            missing = missing or NOTHING.get(reason, f"the model handed in nothing before its limit of {reason}")
            reason = "no_output" if reason in ("handed_in", "cut_off") else reason
        told = wire.arguments(Request(self.settings.model, tuple(self.messages)))
        return Rollout(
            output=output,
            missing="" if output else missing,
            stop_reason=reason,
            transcript=tuple(told["messages"]),
            model=self.settings.model,
            usage=self.usage,
            cost_usd=round(self.cost, 6) if self.is_priced else None,
            turns=self.turns,
            tool_calls=self.tool_calls,
            duration_s=round(time.monotonic() - self.began, 3),
        )


def _prompt(variant: Variant, starter: str) -> tuple[Block, ...]:
    """The prompt as it stands in the task, and the code to start from where the task has some."""
    if not starter:
        return (Text(variant.prompt, is_cached=True),)
    return Text(variant.prompt), Text(f"`starter.py`:\n\n```python\n{starter.rstrip()}\n```", is_cached=True)


def _key(turn: int, number: int, call: llm.types.ToolCall) -> str:
    """The place of a call in the rollout and what it asked: identifiers are not unique with every server."""
    asked = json.dumps([call.name, call.input], sort_keys=True, ensure_ascii=False)
    return f"{turn}.{number}.{hashlib.sha256(asked.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


# --- the task's contract ----------------------------------------------------------------------------------


def output_of(text: str, output_format: str) -> str:
    """What an answer hands in: of a code task the program in it, else the whole text."""
    text = text.replace("\r\n", "\n").strip()
    if output_format == "python":
        return _program(text, _blocks(text))
    blocks = _blocks(text) if output_format == "markdown" and text.startswith(("```", "~~~")) else []
    if len(blocks) == 1 and blocks[0][0] in ("markdown", "md") and text.count("\n") == blocks[0][1].count("\n") + 1:
        return blocks[0][1].strip()
    return text


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced block that is closed."""
    blocks: list[tuple[str, str]] = []
    opened, body = ("", ""), list[str]()
    for line in text.split("\n"):
        if opened[0]:
            if line.rstrip() == opened[0]:
                blocks.append((opened[1], "".join(body)))
                opened = ("", "")
            else:
                body.append(line + "\n")
        elif match := FENCE.fullmatch(line):
            opened, body = (match[1], match[2].lower()), []
    return blocks


def _program(text: str, blocks: Sequence[tuple[str, str]]) -> str:
    """The longest block of Python: short ones show how to call it. Without blocks the text, if it is Python."""
    python = [body for language, body in blocks if language in ("python", "py", "python3", "")]
    if python:
        return max(python, key=len).strip("\n") + "\n"
    return text.strip() + "\n" if not blocks and _is_python(text) else ""


def _is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
