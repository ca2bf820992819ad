"""How an fsdp_training submission went: the data it read, its process group, and whether it ended and learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from graders.code.fsdp_runs import TRAINED, Event, Rank, Run
from graders.code.fsdp_verdict import Verdict, no, plain_training, unsure, yes

# --- data ---------------------------------------------------------------------------------------------


def distributed_sampler(run: Run) -> Verdict:
    rows = [_rows(rank) for rank in run.ranks]
    loader, sampler, set_epoch = (next(iter(run.all(kind)), None) for kind in ("loader", "sampler", "set_epoch"))
    where = [e for e in (sampler, loader, set_epoch) if e]
    if refused := _refused(run):
        return refused
    if any(not r for r in rows):
        if run.over:
            return no("no rank trains on any data", *where, category="not_trained")
        return unsure("no rows of data were seen in a forward pass", *where)
    epochs = 1 if one_epoch(run) else int(run.options.get("epochs", 2))
    if any(len(r) < epochs for r in rows):
        return unsure("it stopped before two epochs were over", *where)
    parts = [_split(r, epochs) for r in rows]
    if wrong := _wrong_parts(run, parts, where, _why_shared(loader, sampler, run)):
        return wrong
    same = [p for p in parts if any(p[i] in p[:i] for i in range(epochs))]
    if same and run.over:
        why = "set_epoch is never called" if sampler and not set_epoch else "the order does not depend on the epoch"
        return no(
            f"{'every epoch has' if epochs < 3 or same[0][0] == same[0][1] else 'epochs have'} the same order: {why}",
            *where,
            category="no_set_epoch",
        )
    if epochs == 1 and len({e.number("epoch") for e in run.all("set_epoch")}) < 2:
        return unsure("one epoch is trained, so that the order of the next is not seen", *where)
    if same:
        return unsure("the epochs can't be compared: the program stopped early", *where)
    return yes("the ranks read parts of their own that cover the data, in a new order every epoch", *where)


def _refused(run: Run) -> Verdict | None:
    """A loader, a sampler or a launch of its own that would not work, whatever it was mended to."""
    if both := next((e for e in run.all("mendable") if e.text("mend") == "shuffle"), None):
        return no("shuffle=True beside a sampler, which DataLoader refuses", both, category="shuffle_and_sampler")
    if refused := next((e for e in run.all("mendable") if e.text("mend") == "sampler" and _of_numbers(e, run)), None):
        return no(f"the sampler does not split over the ranks: {refused.text('error')}", refused, category="wrong_split")
    if "spawn" in run.mends:
        spawn = next((e for e in run.all("mendable") if e.text("mend") == "spawn"), None)
        return no("the ranks are those of mp.spawn on one node: another node reads the same rows", spawn, category="no_sampler")
    return None


def _of_numbers(refused: Event, run: Run) -> bool:
    """Was it the numbers that DistributedSampler refused, and did the program not get past that by itself?"""
    return refused.text("error").startswith("ValueError") and (refused.flag("mended") or not run.over)


def _wrong_parts(run: Run, parts: Sequence[Sequence[Sequence[int]]], where: Sequence[Event], why: str) -> Verdict | None:
    """In an epoch ranks read the same row, or rows are read by none."""
    n = int(run.options.get("n-samples", 0))
    rows = [row for part in parts for rows in part for row in rows]
    known = sum(row in run.data for row in rows) > len(rows) // 2
    for epoch in range(len(parts[0])):
        sets = [set(part[epoch]) - run.twins for part in parts]
        read = set.union(*sets)
        shared = sum(map(len, sets)) - len(read)
        if shared > (0 if known else min(map(len, sets)) // 2):  # other data may hold a row more than once
            how = "the same rows" if all(rows == sets[0] for rows in sets) else f"{shared} rows in common"
            return no(f"the ranks read {how} in epoch {epoch}: {why}", *where, category="no_sampler")
        number = len(read) + len(run.twins) if known else sum(len(part[epoch]) for part in parts)
        if not run.short and number < n - run.world * 4 + 1:
            return no(f"epoch {epoch} reads {number} of {n} rows", *where, category="data_left_out")
    return None


# --- the process group ---


def init_destroy(run: Run) -> Verdict:
    for rank in run.ranks:
        init = rank.first("init")
        if init is None:
            if not run.over and "init" not in run.mends:
                return unsure(f"rank {rank.rank} stopped before it set up a process group")
            return no("init_process_group is never called", category="no_init")
        if fixed := init.items("fixed"):
            return no(
                f"set up with {', '.join(map(str, fixed))} of its own in place of what torchrun gives", init, category="fixed_address"
            )
        if "nccl" not in init.text("backend") and init.text("backend") not in ("", "undefined"):
            return no(f"backend {init.text('backend')} for parameters on GPUs", init, category="wrong_backend")
    if wrong := _teardown(run):
        return wrong
    first = [run.ranks[0].first("init"), run.ranks[0].last("destroy")]
    return yes("set up from torchrun's variables and destroyed on every rank", *first)


def _teardown(run: Run) -> Verdict | None:
    destroys = [next((e for e in reversed(rank.all("destroy")) if e.flag("whole")), None) for rank in run.ranks]
    without = [rank.rank for rank, e in zip(run.ranks, destroys, strict=True) if e is None]
    if without:
        stopped = [run.ranks[i] for i in without if not run.ranks[i].finished]
        if stopped and not run.over and len(without) == run.world:
            return unsure("the program stopped before its end, where it may be destroyed")
        init = run.ranks[0].first("init")
        if len(without) == run.world:
            if beside := next(iter(run.all("destroy")), None):
                return no("a group beside the default one is destroyed, which stays", beside, category="no_destroy")
            return no("destroy_process_group is never called", init, category="no_destroy")
        return no(f"destroyed by some ranks only: not by rank {without[0]}", *destroys, category="partial_destroy")
    for rank, destroy in zip(run.ranks, destroys, strict=True):
        assert destroy is not None
        later = next((e for e in rank.events if e.at > destroy.at and e.kind in ("collective", "wrap", "gather", "step")), None)
        if later is not None:
            return no(f"destroyed before the last {later.kind} (line {later.line})", destroy, category="early_destroy")
        if not any(e.flag("live") and e.flag("whole") for e in rank.all("destroy")):
            return no("destroyed where there is no process group", destroy, category="no_destroy")
    return None


# --- the end ---


def broken(run: Run) -> Verdict | None:
    for rank in run.ranks:
        end = rank.end
        if end is not None and end.text("how") == "exception" and not _is_peer_error(end.text("error")):
            lines = tuple(n for n in end.items("lines") if isinstance(n, int))[:2]
            return Verdict(False, f"{run.name}: rank {rank.rank} stops: {end.text('error')[:300]}", lines, "crash")
    if run.hung == "idle":
        stuck = [rank for rank in run.ranks if rank.stuck]
        lines = tuple(n for rank in stuck for n in rank.stuck[:1] if n)[:2]
        names = ", ".join(str(rank.rank) for rank in stuck)
        return Verdict(False, f"{run.name}: hangs, rank {names} waits for the others", lines, "hang")
    if run.hung:
        return Verdict(False, f"{run.name}: did not end within its time", (), "timeout")
    for rank in run.ranks:
        if not rank.finished:
            return Verdict(False, f"{run.name}: rank {rank.rank} ended early ({_how_ended(rank)})", _end_lines(rank), "crash")
    return None


def untrained(run: Run) -> Verdict | None:
    if plain := plain_training(run):
        return Verdict(False, f"{run.name}: {plain.text}", plain.lines, plain.category)
    rules: tuple[Callable[[Run], Verdict | None], ...] = (_in_a_group_of_one, one_gpu_twice, _apart, _whole)
    if not run.short or all(rank.first("step") for rank in run.ranks):  # a few batches may not come to a step
        rules += (_unlearned,)
    if not run.short:
        rules += (_trained_once, _loss)
    return next((wrong for rule in rules if (wrong := rule(run))), None)


def _in_a_group_of_one(run: Run) -> Verdict | None:
    return no(f"{run.name}: every process trains in a group of its own", run.alone, category="lone_group") if run.alone else None


def _unlearned(run: Run) -> Verdict | None:
    return next((wrong for rank in run.ranks if (wrong := _unlearned_by(rank, run.name))), None)


def _unlearned_by(rank: Rank, name: str) -> Verdict | None:
    forwards = [e for e in rank.all("forward") if e.flag("grad") and e.text("model") in TRAINED]
    if inner := next((e for e in rank.all("forward") if e.text("model") == "inner"), None):
        return no(f"{name}: training goes through the module inside FSDP, not through FSDP", inner, category="plain_forward")
    if not forwards:
        return no(f"{name}: rank {rank.rank} makes no forward pass through a sharded model that could learn", category="not_trained")
    if (last := rank.last("step")) is None:
        return no(f"{name}: the optimizer never steps", forwards[0], category="not_trained")
    if last.number("of_model") < last.number("model"):
        text = f"the optimizer holds {last.number('of_model')} of the sharded model's {last.number('model')} parameters"
        return no(f"{name}: {text}", last, category="optimizer_before_wrap")
    if last.number("no_grad", 0) >= last.number("params"):
        return no(f"{name}: no parameter has a gradient when the optimizer steps", last, category="not_trained")
    if last.number("learning", 1) * 2 < last.number("elements", 0):
        text = f"{last.number('learning')} of the sharded model's {last.number('elements')} elements ever get a gradient"
        return no(f"{name}: {text}", last, category="not_trained")
    if last.at < forwards[len(forwards) // 2].at:
        return no(f"{name}: the optimizer steps in the first half of training only", last, category="not_trained")
    steps = rank.all("stepped")
    if not any(e.flag("moved") for e in steps):
        return no(f"{name}: the optimizer's steps change no parameter", last, category="not_trained")
    if len(steps) > 2 and not any(e.flag("moved") for e in steps[len(steps) // 2 :]):
        return no(f"{name}: the optimizer's steps change nothing in the second half of training", last, category="not_trained")
    return None


def _trained_once(run: Run) -> Verdict | None:
    text = f"{run.name}: one epoch is trained of {run.options.get('epochs')}"
    return no(text, run.ranks[0].last("step"), category="not_trained") if one_epoch(run) else None


def _apart(run: Run) -> Verdict | None:
    if not run.apart or not run.over:
        return None
    text = f"ranks end with different values of {', '.join(run.apart[:2])}: its gradient is not reduced over all of them"
    return no(f"{run.name}: {text}", run.ranks[0].last("step"), category="not_reduced")


def _whole(run: Run) -> Verdict | None:
    wrap = next((e for e in run.all("wrap") if e.text("strategy") == "NO_SHARD"), None)
    return no("NO_SHARD keeps every parameter whole on every rank", wrap, category="plain_ddp") if wrap else None


def _loss(run: Run) -> Verdict | None:
    where = run.ranks[0].first("loss")
    first = second = 0.0
    for rank in run.ranks:
        losses = [e.facts.get("value") for e in rank.all("loss")]
        values = [float(v) for v in losses if isinstance(v, (int, float))]
        if not values:
            return no(f"{run.name}: no loss was computed", where, category="not_trained")
        if len(values) < len(losses):
            return no(f"{run.name}: the loss is not finite", where, category="not_finite")
        half = max(1, len(values) // 2)
        first += sum(values[:half]) / half / run.world
        second += sum(values[-half:]) / half / run.world
        alone = len(values) == 1
    if second >= first and not alone:  # over all ranks: each of them has other rows in the next epoch
        return no(f"{run.name}: the loss does not fall ({first:.3f} to {second:.3f})", where, category="not_trained")
    return None


def _is_peer_error(error: str) -> bool:
    return bool(re.search(r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|gloo|Timed out", error))


def _how_ended(rank: Rank) -> str:
    end = rank.end
    if rank.signal:
        return f"signal {rank.signal}"
    if end is None:
        return f"it left the process with code {rank.exit_code} before its end"
    return end.text("error") or f"exit code {rank.exit_code}"


def _end_lines(rank: Rank) -> tuple[int, ...]:
    return tuple(n for n in rank.end.items("lines") if isinstance(n, int))[:2] if rank.end else ()


def one_gpu_twice(run: Run) -> Verdict | None:
    taken: dict[tuple[int, int], Rank] = {}
    for rank in run.ranks:
        init = rank.first("init")
        used = [e for e in rank.all("device") if e.text("what") in ("tensor", "device_id", "fully_shard", "mesh")]
        if init is None or not used:
            continue
        key = (rank.node, used[-1].number("index"))
        if key in taken:
            text = f"{run.name}: ranks {taken[key].rank} and {rank.rank} are on one GPU, which NCCL refuses"
            return no(text, used[-1], category="bare_cuda")
        taken[key] = rank
    return None


def _rows(rank: Rank) -> list[int]:
    """Rows of the training passes: those with gradients, or where there are none all that came in training mode."""
    passes: list[tuple[Event, list[int]]] = []
    for event in rank.events:
        rows = [int(row) for row in event.items("rows") if isinstance(row, int)]
        if event.kind == "forward":
            passes.append((event, rows))
        elif event.kind == "rows" and passes:  # of the pass that had begun
            passes[-1][1].extend(rows)
    for kinds in (("grad", "training"), ("training",), ()):
        if found := [row for event, rows in passes if all(event.flag(kind) for kind in kinds) for row in rows]:
            return found
    return []


def one_epoch(run: Run) -> bool:
    """Was the starter's data gone through once only, where two epochs are asked for?"""
    rows = [_rows(rank) for rank in run.ranks]
    seen = [row for r in rows for row in r]
    known = bool(run.data) and all(row in run.data for row in seen)
    return known and not run.short and 0 < len(seen) <= int(run.options.get("n-samples", 0)) and all(len(set(r)) == len(r) for r in rows)


def _split(rows: Sequence[int], epochs: int) -> list[list[int]]:
    size = len(rows) // epochs
    return [list(rows[i * size : (i + 1) * size]) for i in range(epochs)]


def _why_shared(loader: Event | None, sampler: Event | None, run: Run) -> str:
    if sampler is not None and sampler.number("replicas") != run.world:
        return f"the sampler splits over {sampler.number('replicas')} of {run.world} ranks"
    if loader is not None and not loader.text("sampler") and sampler is not None:
        return "the sampler is not given to the loader"
    return "nothing splits the data" if sampler is None else "the parts overlap"
