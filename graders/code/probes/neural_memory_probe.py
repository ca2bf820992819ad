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
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import asked
import memory_facts as facts
import memory_writes as writes
import seal
from error_lines import place_in
from guard import OURS, Guard
from hidden_flow import past_the_record
from memory_course import course
from memory_fusion import Fusion
from modes import TRAINING, Mode
from plain_host import limits_of_a_shell
from repair import Repair, with_arguments
from threads import THREADS
from thresholds import ANSWER, led, led_otherwise
from trial import CHANCE, CONTRACT, Broken, Trial, check_logits, last_try
from unseen import keep_unseen
from verdicts import Verdict, agree, is_stuck, no

MANY_TOKENS = 13
READ_TO = 64  # tokens whose record is read in a time worth it
Six = tuple[Verdict, ...]  # in the order of KEYS; no dictionary, as the program could find one by its names and write into it
KEYS = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")
WITHIN = ("surprise_gate", "learnable_decay", "outer_product", "recurrent_update")
RECURRENT = KEYS.index("recurrent_update")


def load(path: str, given: Mapping[str, Any], source: Any = None) -> ModuleType:
    """Import the submission as a module of its own name, so that its `__main__` part does not run; `given` stands in it.

    `source`: what stands in place of the file.
    """
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    vars(module).update(given)
    if source is None:
        spec.loader.exec_module(module)
    else:
        exec(compile(source, path, "exec"), vars(module))  # noqa: S102 (the submission itself, mended)
    return module


def told_exit(status: int) -> NoReturn:
    """What os._exit is for the submission: leaving is told, and what it has defined so far can be looked at."""
    raise SystemExit(status)


def build(module: ModuleType, *, lenient: bool = False) -> torch.nn.Module:
    """The model, made with its default arguments; leniently, that of another class, and with arguments that have no default."""
    cls = getattr(module, "MemoryTransformer", None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        own = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, torch.nn.Module) and c.__module__ == "submission"]
        if not (lenient and own):
            raise Broken("the file defines no class MemoryTransformer(nn.Module)")
        cls = own[-1]
    torch.manual_seed(CHANCE)
    try:
        return cls()
    except TypeError as error:
        if not lenient or "required" not in str(error):
            raise
        return cls(**with_arguments(error))


def verdicts_of(trial: Trial, short: facts.Trace, long: facts.Trace) -> Six:
    long.grows = short.grows = len(short.memory_nodes) != len(long.memory_nodes)
    short.keep_growing(long)
    long.keep_growing(short)
    if short.keep_counting():
        long.keep_counting()
    memory = no(trial.no_class) if trial.no_class else facts.memory_class(short, bool(short.memory_nodes))
    return (
        memory,
        writes.surprise_gate(short),
        facts.learnable_decay(short),
        writes.outer_product(short, long),
        facts.recurrent_update(short, long, remembers=trial.remembers),
        Fusion(short).verdict(),
    )


def both(one: Six, other: Six) -> Six:
    """What holds in two runs of one program."""
    return tuple(agree([a, b]) for a, b in zip(one, other, strict=True))


def decide(trial: Trial, guard: Guard, given: Mapping[str, Any]) -> tuple[Six, dict[str, list[float]]]:
    """(the verdicts of a program that runs, its memory over time). Raises Broken where it does not run after all."""
    first, size = trial.longer(), trial.long
    long = try_trace(trial, *size, backward=False)  # right after the untraced run of the same size
    oddity = trial.oddity(first, long)
    trial.kind = "text"
    short = try_trace(trial, *trial.sizes)
    if short.is_sparse(short.chain):  # some tokens a step: a few steps are needed to tell what one does
        trial.sizes = (trial.sizes[0], MANY_TOKENS)
        short = try_trace(trial, *trial.sizes)
    if oddity == "watched":
        return all_no("the program gives other results when its operations are recorded"), {}
    trial.remembers = oddity == "calls" and trial.is_left_over()
    with guard.originals():
        found = verdicts_of(trial, short, long)
        told = course(long, dict(zip(KEYS, found, strict=True)))
    if short.places() != long.places():  # other code for other sizes
        found = both(found, again(trial, guard, size, trial.sizes))
    for mode in trial.modes():
        found = both(found, again(trial, guard, trial.sizes, size, mode))
    if found[RECURRENT].says == "yes" and (length := trial.steps_stop()):
        found = both(found, again(trial, guard, (size[0], length), size)) if length <= READ_TO else found
        stops = no("from some length on no more steps are made: the chain does not grow", *short.outputs[-1:])
        found = (*found[:RECURRENT], stops, *found[RECURRENT + 1 :])
    for other in trial.other_ways():
        found = both(found, again(trial, guard, other, size))
    if trial.counts():
        found = both(found, again(trial, guard, trial.sizes, size))
    found = beyond(trial, guard, given, seen_whole(trial, short, found))
    if any(map(is_stuck, found)):
        trial.calm()
        moved = again(trial, guard, trial.sizes, size)
        found = tuple(new if is_stuck(old) else old for old, new in zip(found, moved, strict=True))
    return found, told


def seen_whole(trial: Trial, trace: facts.Trace, found: Six, mode: Mode = TRAINING) -> Six:
    """The verdicts, without what the record alone says of values that come about in another way."""
    hidden: set[str] = set()
    with contextlib.suppress(RuntimeError, IndexError, ValueError):  # what does not run with other parameters tells nothing
        hidden = past_the_record(trial, trace, mode) if any(v.says == "yes" for v in found) else hidden
    if not hidden:
        return found
    why = "what the logits are made from is not what its operations say: a part is computed past them"
    parts = {KEYS.index("memory_attention_gating"): "blend", **{KEYS.index(key): "memory" for key in WITHIN}}
    return tuple(no(why, *v.nodes) if v.says == "yes" and parts.get(n) in hidden else v for n, v in enumerate(found))


def beyond(trial: Trial, guard: Guard, given: Mapping[str, Any], found: Six) -> Six:
    """With what it does beyond the large numbers that it holds its counts and sizes against, where it does another thing there."""
    usual: list[object] = []
    for tree in () if trial.lenient else led_otherwise(trial.path):
        usual = usual or trial.course(*trial.sizes)
        try:
            module = load(trial.path, {**given, ANSWER: led}, tree)
            other = Trial(build(module), module, trial.path, trial.seed)
            other.kind = "text"
            if other.course(*other.sizes) not in (usual, []):
                found = both(found, again(other, guard, other.sizes, other.long))
        except Exception:  # noqa: S112 (where it breaks when it is led the other way, nothing is told)
            continue
    return found


def all_no(why: str) -> Six:
    return tuple(no(why) for _ in KEYS)


def again(trial: Trial, guard: Guard, size: tuple[int, int], other: tuple[int, int], mode: Mode = TRAINING) -> Six:
    one, two = trial.trace(*size, mode=mode), trial.trace(*other, mode=mode)
    with guard.originals():
        found = verdicts_of(trial, one, two)
    return seen_whole(trial, one, found, mode)


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


def salvage(module: ModuleType, path: str, seed: int) -> Six:
    """What can be seen of a program that does not run: its forward pass, if that works for any size."""
    trial = Trial(build(module, lenient=True), module, path, seed)
    trial.lenient = True
    with contextlib.suppress(Exception):
        trial.remembers = trial.differs()
    for batch in (trial.sizes[0], 1):
        try:
            short, long = (trial.trace(batch, length, backward=False) for length in (trial.sizes[1], CONTRACT[1]))
        except Exception:  # noqa: S112 (another size may do)
            continue
        return verdicts_of(trial, short, long)
    return ()


def started(path: str, given: dict[str, Any], seed: int, repair: Repair | None = None) -> Trial:
    """The submission, loaded, built and run once. Raises whatever it raises."""
    module = load(path, given, repair.source() if repair else None)
    trial = Trial(build(module, lenient=repair is not None), module, path, seed)
    trial.lenient = repair is not None
    try:
        trial.check()
        if repair:
            repair.has_run()
    except SystemExit:
        raise Left(f"forward leaves the process{place_in(path, sys.exc_info()[2])}") from None
    return trial


class Left(Exception):
    """The submission ends the process in its forward pass."""


def mended(repair: Repair, seed: int, guard: Guard, error: BaseException | None) -> Six:
    """The verdicts of the submission without its mistakes, if it runs without them."""
    while error is not None and not isinstance(error, Left):
        if not repair.mend(error):
            return ()
        try:
            return decide(started(repair.path, repair.given, seed, repair), guard, repair.given)[0]
        except BaseException as next_error:
            error = next_error
    return ()


def unrunnable(path: str, given: dict[str, Any], seed: int, guard: Guard, error: BaseException | None) -> Six:
    """What there is to see of a submission that stopped with this error."""
    if isinstance(error, Left):
        return all_no(f"{error}: nothing is computed")
    partial, repair = last_try(), Repair(path, given)
    try:
        if found := mended(repair, seed, guard, error):
            for verdict in found:
                verdict.text = f"with {' and '.join(repair.notes)}: {verdict.text}" if repair.notes else verdict.text
            return found
        partial = last_try() or partial
        return salvage(partial, path, seed) if partial else ()
    finally:
        repair.close()


def examine(
    path: str, watch: Callable[[], Callable[..., None]] | None = None, seed: int = 0, *, asks_for_its_names: bool = False
) -> dict[str, Any]:
    """The report: runs, error, verdicts, tampered, trace_error. `asks_for_its_names`: of globals(), and for nothing else there."""
    report: dict[str, Any] = {"runs": False, "error": None, "trace_error": None, "n_parameters": 0, "course": {}}
    keep_unseen()
    limits_of_a_shell()
    leave, os._exit = os._exit, told_exit
    guard = Guard()
    tell = watch() if watch else None
    seal.BOTTOMS.append(THREADS.follow(tell))
    given = asked.watched(tell, asks_for_its_names=asks_for_its_names) if tell else {}
    found: Six = ()
    stopped: BaseException | None = None
    try:
        trial = started(path, given, seed)
        report.update(runs=True, n_parameters=sum(p.numel() for p in trial.model.parameters()))
        found, report["course"] = decide(trial, guard, given)
    except BaseException as error:
        stopped = error
        if report["runs"] and not isinstance(error, Broken):
            report["trace_error"] = describe(error, path)
        else:
            report.update(runs=False, error=str(error) if isinstance(error, Broken | Left) else describe(error, path))
    if not report["runs"]:
        with contextlib.suppress(BaseException):
            found = unrunnable(path, given, seed, guard, stopped)
    told = ({"says": v.says, "text": v.text, "lines": v.lines, "category": v.category} for v in found)
    report["verdicts"] = dict(zip(KEYS, told, strict=False))
    report["tampered"], report["replaced"] = guard.changed()
    os._exit = leave
    return report


def describe(error: BaseException, path: str) -> str:
    """What it says, and where in the submission it was raised."""
    return f"{type(error).__name__}: {error}{place_in(path, error.__traceback__)}"[:2000]


def main() -> None:
    order, report = seal.take_order()
    torch.set_num_threads(1)
    names = order["asks_for_its_names"]
    report(examine(os.path.abspath(order["path"]), lambda: seal.watch(*OURS), secrets.randbelow(1000), asks_for_its_names=names))


if __name__ == "__main__":
    main()
