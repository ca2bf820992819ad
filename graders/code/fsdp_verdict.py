"""What a rule says of one criterion of fsdp_training, and the rule that more than one criterion asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graders.code.fsdp_runs import Event, Run


@dataclass(frozen=True)
class Verdict:
    """passed, why, lines that show it, and the failure's category. `passed` None: can't be told."""

    passed: bool | None
    text: str
    lines: tuple[int, ...] = ()
    category: str = ""


def yes(text: str, *where: Event | None) -> Verdict:
    return Verdict(True, text, _lines(where))


def no(text: str, *where: Event | None, category: str = "") -> Verdict:
    return Verdict(False, text, _lines(where), category)


def unsure(text: str, *where: Event | None) -> Verdict:
    return Verdict(None, text, _lines(where))


def _lines(where: Iterable[Event | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(e.line for e in where if e is not None and e.line))[:4]


def plain_training(run: Run) -> Verdict | None:
    """What is trained is not the sharded model."""
    forwards = [e for e in run.all("forward") if e.flag("grad") and e.flag("training")]
    plain = [e for e in forwards if e.text("model") == "plain"]
    if ddp := next(iter(run.all("ddp")), None):
        return no("DistributedDataParallel shards nothing", ddp, category="plain_ddp")
    if bypassed := next(iter(run.all("bypassed")), None):
        return no("the sharded model's forward pass runs none of its blocks: another model is trained", bypassed, category="plain_model")
    if beside := next((e for e in run.all("step") if e.number("beside", 0) and not e.number("of_model")), None):
        return no("the optimizer steps a model beside the sharded one, which gets no gradients", beside, category="plain_model")
    if plain:
        return no("the model that is trained is not sharded", plain[0], category="plain_model")
    return None
