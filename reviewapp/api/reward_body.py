"""What a trainer sends to POST reward: its own body or OpenRLHF's, read into one list of completions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ninja import Schema
from pydantic import ConfigDict, Field, model_validator

from reviewapp.api.errors import ApiError, Problem, refused

MOST_COMPLETIONS = 256
MOST_CHARS = 200_000
LONGEST_WAIT_S = 170.0  # OpenRLHF gives up after 180
NAMES = ("task", "prompts", "completions", "grader", "calibrator", "store", "model", "timeout_s", "limit_usd", "query", "labels")
# The sign of the end of a turn, which OpenRLHF leaves in a query.
ENDS = re.compile(r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|return)\|>|</s>|<end_of_turn>|<eos>|<pad>))+\s*$")
BEFORE_PROMPT = 64  # characters of a sign of the beginning


class Message(Schema):
    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


Texts = list[str | list[Message]]


class RewardBody(Schema):
    """`completions` with their `prompts` (text, or messages as TRL has them); or OpenRLHF's `query`, `prompts`, `labels`."""

    task: str = Field("", max_length=63)
    prompts: Texts | None = None
    completions: Texts | None = None
    query: list[str] | None = Field(None, description="OpenRLHF: prompt and response in one")
    labels: list[Any] | None = Field(None, description="OpenRLHF: a task's slug, or an object with `task`, for each")
    grader: str = Field("", max_length=200, description="NAME or NAME@VERSION; the task's primary grader by default")
    calibrator: str = Field("", max_length=64, description='beginning of a hash to hold on to one fit, "none" for the raw judge')
    store: bool = Field(False, description="also keep the completions as outputs of the workspace, with their grades")
    model: str = Field("", max_length=200, description="with store: who wrote them")
    timeout_s: float = Field(LONGEST_WAIT_S, gt=0, le=LONGEST_WAIT_S)
    limit_usd: float | None = Field(None, gt=0, le=1e6, description="what this member's rewards of the task may cost in all")

    @model_validator(mode="after")
    def check(self) -> RewardBody:
        if (self.completions is None) == (self.query is None):
            raise ValueError("either completions (with prompts), or query (with prompts and labels)")
        return self


def check_names(sent: bytes) -> None:
    """A field that there is none of is a mistake in our own body; OpenRLHF may send more than it does today."""
    told = json.loads(sent)
    if "query" not in told and (unknown := [name for name in told if name not in NAMES]):
        raise refused(f"body.{unknown[0][:80]}", told[unknown[0]], f"no such field; there are: {', '.join(NAMES)}")


@dataclass(frozen=True)
class Asked:
    """One completion as it came; `why_not` when it can't be graded."""

    task: str
    prompt: str
    completion: str
    why_not: str = ""


def read_body(body: RewardBody, task_of_address: str) -> list[Asked]:
    """Raises ApiError 422 when the lists don't fit together."""
    texts: Texts = list(body.query) if body.query is not None else body.completions or []
    name = "query" if body.query is not None else "completions"
    if not 1 <= len(texts) <= MOST_COMPLETIONS:
        raise refused(f"body.{name}", f"a list of {len(texts)}", f"1 to {MOST_COMPLETIONS} in one call")
    _check_lengths(name, len(texts), {"prompts": body.prompts, "labels": body.labels})
    prompts = [_text(one) for one in body.prompts] if body.prompts is not None else [""] * len(texts)
    if body.query is not None:
        labels = body.labels if body.labels is not None else [None] * len(texts)
        return [_of_query(*row, body.task or task_of_address) for row in zip(body.query, prompts, labels, strict=True)]
    return [_asked(body.task or task_of_address, prompt, _text(one)) for prompt, one in zip(prompts, texts, strict=True)]


def _check_lengths(name: str, count: int, others: dict[str, Any]) -> None:
    for other, found in others.items():
        if found is not None and len(found) != count:
            problem = Problem(f"body.{other}", f"a list of {len(found)}", f"{count}, as many as {name}")
            raise ApiError(422, f"body.{other} has {len(found)} entries, allowed: {problem.allowed}", [problem])


def _of_query(query: str, prompt: str, label: Any, task: str) -> Asked:
    """The response is what stands after the prompt, without the sign of its end."""
    task = _task_of_label(label) or task
    place = query.find(prompt, 0, len(prompt) + BEFORE_PROMPT) if prompt else 0
    if place < 0:
        return Asked(task, prompt, "", "its prompt is not the beginning of its query")
    return _asked(task, prompt, ENDS.sub("", query[place + len(prompt) :]))


def _task_of_label(label: Any) -> str:
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            label = json.loads(label)
        except ValueError:
            return ""
    found = label.get("task") if isinstance(label, dict) else label
    return found if isinstance(found, str) else ""


def _asked(task: str, prompt: str, completion: str) -> Asked:
    why = ""
    if not completion.strip():
        why = "the completion is empty"
    elif len(completion) > MOST_CHARS:
        why = f"the completion has {len(completion):,} characters, at most {MOST_CHARS:,} are graded"
    return Asked(task, prompt, completion, why)


def _text(value: str | list[Message]) -> str:
    """Of messages the text: of several the last one by the assistant, or of a prompt all of them."""
    if isinstance(value, str):
        return value
    spoken = [message for message in value if message.role == "assistant"] or value
    chosen = spoken[-1:] if spoken is not value else value
    return "\n\n".join(_content(message) for message in chosen)


def _content(message: Message) -> str:
    if isinstance(message.content, list):
        return "".join(str(part.get("text", "")) for part in message.content if part.get("type", "text") == "text")
    return message.content or ""
