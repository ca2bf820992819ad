"""Runs a neural_memory submission and reports facts about it. Runs INSIDE the sandbox, beside untrusted code.

stdin: a JSON order with the nonce; descriptor 3: one JSON report that repeats it. What the submission prints goes to
stdout and stderr and is never read as a report.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import memory_facts as facts
import memory_writes as writes
import seal
from guard import OURS, Guard
from memory_course import course
from memory_fusion import Fusion
from trial import CONTRACT, Broken, Trial, check_logits, last_try
from verdicts import Verdict, agree, no

KEYS = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")


def load(path: str) -> ModuleType:
    """Import the submission as a module of its own name, so that its `__main__` part does not run."""
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module


def told_exit(status: int) -> NoReturn:
    """What os._exit is while the submission loads: leaving is told, and what it has defined so far can be looked at."""
    raise SystemExit(status)


def build(module: ModuleType) -> torch.nn.Module:
    cls = getattr(module, "MemoryTransformer", None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise Broken("the file defines no class MemoryTransformer(nn.Module)")
    torch.manual_seed(0)
    return cls()


def verdicts_of(short: facts.Trace, long: facts.Trace, habits: dict[str, bool], no_class: str) -> dict[str, Verdict]:
    long.grows = short.grows = len(short.memory_nodes) != len(long.memory_nodes)
    memory = no(no_class) if no_class else facts.memory_class(short, bool(short.memory_nodes))
    return {
        "memory_class": memory,
        "surprise_gate": writes.surprise_gate(short),
        "learnable_decay": facts.learnable_decay(short),
        "outer_product": writes.outer_product(short, long),
        "recurrent_update": facts.recurrent_update(short, long, habits),
        "memory_attention_gating": Fusion(short).verdict(),
    }


def both(one: dict[str, Verdict], other: dict[str, Verdict]) -> dict[str, Verdict]:
    """What holds in two runs of one program."""
    return {key: agree([one[key], other[key]]) for key in one}


def decide(trial: Trial, guard: Guard) -> tuple[dict[str, Verdict], dict[str, list[float]]]:
    """(the verdicts of a program that runs, its memory over time). Raises Broken where it does not run after all."""
    long = try_trace(trial, *CONTRACT, backward=False)  # right after the untraced run of the same size
    oddity = trial.oddity(long)
    short = try_trace(trial, *trial.sizes)
    if oddity == "watched":
        return {key: no("the program gives other results when its operations are recorded") for key in KEYS}, {}
    habits = {"remembers_calls": oddity == "calls"}
    with guard.originals():
        found = verdicts_of(short, long, habits, trial.no_class)
        told = course(long, found)
    if short.places() != long.places():  # other code for other sizes
        found = both(found, again(trial, guard, habits, CONTRACT, trial.sizes))
    if trial.counts():
        found = both(found, again(trial, guard, habits, trial.sizes, CONTRACT))
    return found, told


def again(trial: Trial, guard: Guard, habits: dict[str, bool], size: tuple[int, int], other: tuple[int, int]) -> dict[str, Verdict]:
    one, two = trial.trace(*size), trial.trace(*other)
    with guard.originals():
        return verdicts_of(one, two, habits, trial.no_class)


def try_trace(trial: Trial, batch: int, length: int, *, backward: bool = True) -> facts.Trace:
    """A trace; when that fails, the plain run says whether the program or the tracing is at fault."""
    try:
        return trial.trace(batch, length, backward=backward)
    except Exception:
        try:
            logits = trial.run(batch, length)
            check_logits(logits, batch, length)
            if backward:
                trial.backward(logits, trial.tokens(batch, length), retain=False)
        except Broken:
            raise
        except BaseException as error:
            raise Broken(describe(error, trial.path)) from error
        raise


def salvage(module: ModuleType, path: str, seed: int) -> dict[str, Verdict]:
    """What can be seen of a program that does not run: its forward pass, if that works for any size."""
    trial = Trial(build(module), module, path, seed)
    for batch in (trial.sizes[0], 1):
        try:
            short, long = (trial.trace(batch, length, backward=False) for length in (trial.sizes[1], CONTRACT[1]))
        except Exception:  # noqa: S112 (another size may do)
            continue
        return verdicts_of(short, long, {"remembers_calls": False}, trial.no_class)
    return {}


def examine(path: str, watch: Callable[[], None] | None = None, seed: int = 0) -> dict[str, Any]:
    """The report: runs, error, verdicts, tampered, trace_error."""
    report: dict[str, Any] = {"runs": False, "error": None, "trace_error": None, "n_parameters": 0, "course": {}}
    guard = Guard()
    if watch:
        watch()
    trial: Trial | None = None
    found: dict[str, Verdict] = {}
    leave = os._exit
    try:
        os._exit = told_exit
        module = load(path)
        trial = Trial(build(module), module, path, seed)
        trial.check()
        report["n_parameters"] = sum(p.numel() for p in trial.model.parameters())
        report["runs"] = True
    except Broken as error:
        report["error"] = str(error)
    except BaseException as error:
        report["error"] = describe(error, path)
    finally:
        if os._exit is told_exit:
            os._exit = leave
    try:
        if trial and report["runs"]:
            found, report["course"] = decide(trial, guard)
    except Broken as error:
        report.update(runs=False, error=str(error))
    except BaseException as error:
        report["trace_error"] = describe(error, path)
    if not report["runs"] and (partial := last_try()):
        with contextlib.suppress(BaseException):
            found = salvage(partial, path, seed)
    report["verdicts"] = {key: {"says": v.says, "text": v.text, "lines": v.lines, "category": v.category} for key, v in found.items()}
    report["tampered"], report["replaced"] = guard.changed()
    return report


def describe(error: BaseException, path: str) -> str:
    """The last lines of the traceback, those of the submission only."""
    rows = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    where = f" (line {rows[-1].lineno})" if rows else ""
    return f"{type(error).__name__}: {error}{where}"[:2000]


def main() -> None:
    order, report = seal.take_order()
    torch.set_num_threads(1)
    report(examine(os.path.abspath(order["path"]), lambda: seal.watch(*OURS), secrets.randbelow(1000)))


if __name__ == "__main__":
    main()
