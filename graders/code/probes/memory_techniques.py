"""The eighteen techniques, each decided from what a TrainingLog saw. Runs INSIDE the sandbox.

A technique counts when it took effect in the training that the program did, for at least half of the work, the
parameters or the passes that it is about. The wording of the rubric is the rule; `no` says what was seen instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from training_log import TrainingLog
from training_passes import Forward

HALF, MOST = 0.5, 0.75
LEAST_RECOMPUTED, WHOLE_MODEL = 0.05, 0.8  # shares of a forward pass's work
LEAST_PACKED = 0.02  # of the bytes that the products of the training passes make: a block's input is a fourteenth
LEAST_MOVED = 0.2  # share of the parameters that is copied each way in a step, or of the saved bytes that is packed
STATE_BYTES, TRANSIENT_BYTES = 8, 4  # a parameter's, with the starter's AdamW(foreach=True)
LOW_BYTES = 2
LIKE_A_LOSS = (5.0, 11.0)  # the log of 2,000 words is 7.6


@dataclass(frozen=True)
class Finding:
    """Does it take effect, what was seen, on which lines."""

    passed: bool
    text: str
    lines: tuple[int, ...] = ()

    def report(self) -> dict[str, Any]:
        return {"says": "yes" if self.passed else "no", "text": self.text, "lines": [n for n in self.lines if n > 0][:3]}


def yes(text: str, *lines: int) -> Finding:
    return Finding(True, text, lines)


def no(text: str, *lines: int) -> Finding:
    return Finding(False, text, lines)


def findings(log: TrainingLog) -> dict[str, dict[str, Any]]:
    """criterion -> report."""
    if log.training:
        return {key: rule(log).report() for key, rule in RULES.items()}
    found = {key: no("nothing is trained: no backward pass of a model that sees the images") for key in RULES}
    if log.forwards:  # what can be seen of a forward pass
        found |= {
            "no_grad_eval": no_grad_eval(log),
            "sdpa_flash_attention": sdpa_flash_attention(log),
            "loss_item_detach": loss_item_detach(log),
        }
    return {key: finding.report() for key, finding in found.items()}


def mixed_precision_autocast(log: TrainingLog) -> Finding:
    share = _share(log, "autocast")
    line = log.lines.get("autocast", 0)
    if wrong := log.mended_by("autocast"):
        return no(f"the call is wrong: {wrong[0]}", wrong[1])
    if share >= HALF:
        return yes(f"{share:.0%} of the training passes' products run in {_low_dtype(log)} under autocast", line)
    evaluated = any(f.work_by["autocast"] for f in log.forwards if not f.is_training)
    if evaluated:
        return no("autocast is in effect in the evaluation only", line)
    return no("autocast is entered, but the training products are not in low precision" if line else "no product runs under autocast", line)


def grad_scaler_or_bf16(log: TrainingLog) -> Finding:
    if wrong := log.mended_by("nscale", "update()"):
        return no(f"the scaler is used wrongly: {wrong[0]}", wrong[1])
    low = {dtype: _share(log, f"low:{dtype}") for dtype in ("bfloat16", "float16")}
    if low["bfloat16"] >= HALF:
        return yes(f"{low['bfloat16']:.0%} of the training products are in bfloat16, which needs no scaler", log.lines.get("autocast", 0))
    if low["float16"] < HALF:
        return no("training runs in float32")
    missing = [name for name in ("scale", "step", "update") if not log.calls[f"scaler.{name}"]]
    if missing:
        return no(f"float16 without a working GradScaler: {', '.join(missing)} is never called", log.lines.get("scaler.scale", 0))
    if log.calls["clip scaled"]:
        return no("gradients are clipped while they are scaled: unscale_ is not called before", log.lines["clip scaled"])
    return yes("float16 with a GradScaler that scales, steps and updates", log.lines["scaler.scale"], log.lines["scaler.step"])


def gradient_checkpointing(log: TrainingLog) -> Finding:
    passes = log.training
    share = median(f.recomputed / f.work if f.work else 0.0 for f in passes)
    regions = median(max(f.regions, f.nested) for f in passes)
    line = log.lines.get("checkpoint", 0)
    remade = median(f.remade_bytes / f.activation_bytes if f.activation_bytes else 0.0 for f in passes)
    if max(share, remade) < LEAST_RECOMPUTED:
        return no("nothing is recomputed in the backward pass", line)
    if regions <= 1 and share >= WHOLE_MODEL:
        return no("one segment holds the whole model: everything is recomputed at once, and the peak stays", line)
    return yes(f"{max(share, remade):.0%} of the forward pass is recomputed in the backward pass, in {regions:.0f} segments", line)


def gradient_accumulation(log: TrainingLog) -> Finding:
    groups = _groups(log)
    if not groups:
        return no("no update of the parameters was seen")
    size = round(median(len(group) for group in groups))
    if size < 2:
        return no("each update follows a single backward pass")
    big = [group for group in groups if len(group) >= 2]
    fed = [[group[-1].fed[f.number] >= HALF * group[-1].n_parameters for f in group] for group in big]
    if not any(any(row) for row in fed):  # an update that can't be followed, such as one in numpy
        fed = [[f.grads_before[0] == "kept" for f in group[1:]] for group in big]
    if not all(all(row) for row in fed):
        return no("gradients are cleared between the micro-batches of one update")
    roots = [sum(f.roots) * len(group) for group in big for f in group]
    divided = [group[-1].factors[round(1 / len(group), 3)] >= HALF * group[-1].n_parameters for group in big]  # the gradients
    if not LIKE_A_LOSS[0] <= median(roots) / (size if all(divided) else 1) <= LIKE_A_LOSS[1]:
        return no(f"the loss of a micro-batch is not divided by their number: it is {median(roots) / size:.2f} in each of {size}")
    return yes(f"{size} backward passes to an update, each loss divided by their number")


def zero_grad_set_to_none(log: TrainingLog) -> Finding:
    states = [group[0].grads_before[0] for group in _groups(log)[1:] if group[0].grads_before]
    if not states:
        states = [f.grads_before[0] for f in log.training[1:]]
    if states and states.count("none") >= MOST * len(states):
        return yes("gradients are gone before each step's first backward pass")
    if not states and log.calls["dropped gradients"]:
        return yes("gradients are dropped, not zeroed", log.lines["dropped gradients"])
    if not states:
        return no("a single update was made, and gradients were never dropped")
    return no("gradients are zeroed and kept in memory" if "kept" not in states else "gradients are not cleared between updates")


def no_grad_eval(log: TrainingLog) -> Finding:
    trained = {f.images for f in log.training}
    # a pass on a batch that is trained on, with a graph that is thrown away, belongs to that training
    evaluations = [f for f in log.forwards if not f.backwards and not (f.with_grad and f.images in trained)]
    if not evaluations:
        return no("no evaluation is run")
    if any(f.with_grad for f in evaluations):
        return no("the evaluation's forward passes record a graph")
    return yes(f"{len(evaluations)} evaluation passes, all without gradients")


def sdpa_flash_attention(log: TrainingLog) -> Finding:
    seen = [entry for f in log.training or log.forwards for entry in f.attention]
    by_kind = {kind: line for kind, line in reversed(seen)}
    if "fused without mask" in by_kind:
        return no("scaled_dot_product_attention runs without the causal mask", by_kind["fused without mask"])
    if "by hand" in by_kind:
        return no("the training passes make the T x T scores by hand", by_kind["by hand"])
    if "fused" not in by_kind:
        return no("no attention was seen in the training passes")
    attended = [(f.attended, f.rows / f.samples) for f in log.training if f.attended and f.samples]
    if attended and all(keys < HALF * tokens for keys, tokens in attended):
        keys, tokens = attended[0]
        return no(f"attention looks at {keys} positions of {tokens:.0f}: another dimension than that of the tokens", by_kind["fused"])
    return yes("attention goes through scaled_dot_product_attention with the causal mask", by_kind["fused"])


def low_memory_optimizer(log: TrainingLog) -> Finding:
    if wrong := log.mended_by("foreach", "optim"):
        return no(f"the optimizer can't be made: {wrong[0]}", wrong[1])
    steps = log.training_steps
    if not steps:
        return no("no update of the parameters was seen")
    name = ", ".join(sorted(set(log.optimizer_names.values()))) or "a hand-written update"
    first = next((f.number for f in log.training if f.updated >= HALF * log.n_parameters), len(log.forwards))
    held = [size for number, size in log.state_bytes if number > first]
    state = min(held, default=sum(log.optimizer_bytes.values())) / log.n_parameters
    if state < 0.9 * STATE_BYTES:
        return yes(f"{name} keeps {max(state, 0):.1f} bytes a parameter on the GPU; the starter's keeps {STATE_BYTES}")
    last = steps[-1]
    most = median(step.transient_bytes for step in steps[1:] or steps)
    transient = most - (sum(log.optimizer_bytes.values()) if len(steps) == 1 else 0)
    if last.in_backward:
        return yes(f"{name} steps inside the backward pass, a parameter at a time")
    if transient < HALF * TRANSIENT_BYTES * log.n_parameters:
        return yes(
            f"a step of {name} needs {max(transient, 0) / 2**20:.1f} MB at its peak; the starter's foreach step a copy of the parameters"
        )
    return no(f"{name} keeps {state:.1f} bytes of state a parameter and copies the parameters in a step, as the starter does")


def cpu_offload(log: TrainingLog) -> Finding:
    line = log.lines.get("moved", 0)
    steps = max(len(log.steps), 1)
    moved = {way: sum(n for (w, step), n in log.moved_shapes.items() if w == way and step <= steps) for way in ("in", "out")}
    share = min(moved.values()) / steps / log.n_parameters
    if share >= LEAST_MOVED:
        return yes(f"in a step {share:.0%} of the parameters' size goes to the host and comes back", line)
    if log.calls["step on the host"] and moved["in"]:
        return yes("the optimizer steps on copies in host memory, and they come back", line)
    return no("parameters, gradients and optimizer state stay on the GPU")


def torch_compile(log: TrainingLog) -> Finding:
    share = _share(log, "compiled")
    line = log.lines.get("compile", 0)
    if share >= HALF:
        return yes(f"{share:.0%} of the training passes' work runs in what torch.compile returned", line)
    return no("the training loop does not call what torch.compile returned" if line else "nothing that was compiled is called", line)


def in_place_ops(log: TrainingLog) -> Finding:
    if wrong := log.mended_by("inplace operation", "in-place operation", "modified inplace"):
        return no(f"it overwrites what the backward pass needs: {wrong[0][:200]}", wrong[1])
    seen = [entry for f in log.training for entry in f.in_place]
    if sum(bool(f.in_place) for f in log.training) >= HALF * len(log.training):
        return yes(f"{seen[0][0]} overwrites an activation in the training passes", seen[0][1])
    return no("no operation of the training passes overwrites an activation")


def del_and_empty_cache(log: TrainingLog) -> Finding:
    trained = {f.number + 1 for f in log.training}
    freed = [entry for entry in log.freeing.freed if entry[0] in trained]
    deleted = freed[0][2] if freed else 0
    in_time = [(number, line) for number, line in log.freeing.emptied if number < len(log.forwards)]
    if not log.freeing.emptied:
        return no("torch.cuda.empty_cache() is never called", deleted)
    if not in_time:
        return no("torch.cuda.empty_cache() is called at the end only", log.freeing.emptied[0][1])
    if not any(number <= emptied for number, _, _ in freed for emptied, _ in in_time):
        return no("nothing large is deleted before the cache is emptied", in_time[0][1])
    return yes("large tensors are deleted in the loop and the cache is emptied while training goes on", deleted, in_time[0][1])


def channels_last(log: TrainingLog) -> Finding:
    if wrong := log.mended_by("channels_last", "memory_format"):
        return no(f"the layout can't be had: {wrong[0][:200]}", wrong[1])
    seen = [is_last for f in log.training for is_last in f.convolutions]
    if seen and sum(seen) >= HALF * len(seen):
        return yes(f"{sum(seen)} of {len(seen)} convolutions of the training passes work on channels-last data")
    return no("the convolutions of the training passes see contiguous data only")


def activation_offload(log: TrainingLog) -> Finding:
    line = log.lines.get("packed", 0)
    totals = {name: sum(f.packed[name] for f in log.training) for name in ("whole", "offloaded", "smaller")}
    better, kept = totals["offloaded"] + totals["smaller"], sum(f.packed["kept"] for f in log.training)
    packing = [f for f in log.training if f.packed["offloaded"] + f.packed["smaller"] > LEAST_PACKED * f.activation_bytes]
    if kept > HALF * better:
        return no("what is packed stays in memory as it was, too", line)
    if better >= LEAST_MOVED * sum(totals.values()) and len(packing) >= HALF * len(log.training):
        how = "moved to the host" if totals["offloaded"] >= totals["smaller"] else "packed smaller"
        return yes(f"{better / max(sum(totals.values()), 1):.0%} of what autograd saves through the hooks is {how}", line)
    return no(
        "saved tensors pass through hooks that leave them as they are" if totals["whole"] else "autograd saves its tensors on the GPU", line
    )


def param_dtype_bf16(log: TrainingLog) -> Finding:
    if clash := log.mended_by("should be the same", "same dtype", "scalar type"):
        return no(f"inputs don't match the parameters: {clash[0][:200]}", clash[1])
    used = [f.parameters.values() for f in log.training]
    share = median(sum(n for n, dtype in one if dtype == torch.bfloat16) / max(sum(n for n, _ in one), 1) for one in used)
    if share >= HALF:
        return yes(f"{share:.0%} of the parameters that training uses are bfloat16")
    return no("the parameters that training uses are not bfloat16")


def loss_item_detach(log: TrainingLog) -> Finding:
    if wrong := log.mended_by("through the graph a second time"):
        return no(f"a loss is kept with its graph, which the backward pass has freed: {wrong[0][:120]}", wrong[1])
    if log.kept_graphs > 2:
        return no(f"losses are kept with their graph: {log.kept_graphs} graphs of earlier passes are alive at once")
    return yes("no loss of an earlier pass is kept with its graph")


def pinned_memory_nonblocking(log: TrainingLog) -> Finding:
    copies = [copy for f in log.training for copy in f.copies]
    if not copies:
        return no("no copy of a batch to the GPU was seen")
    line = copies[0][2]
    both = sum(non_blocking and pinned for non_blocking, pinned, _ in copies)
    if both >= HALF * len(copies):
        return yes("training batches are copied from pinned memory without blocking", line)
    pinned = any(pinned for _, pinned, _ in copies)
    return no("batches are pinned, but copied with blocking" if pinned else "batches are copied from memory that is not pinned", line)


def chunked_loss(log: TrainingLog) -> Finding:
    passes = [f for f in log.training if f.head_rows]
    if not passes:
        return no("no output head was seen in the training passes")
    first = passes[min(1, len(passes) - 1)]  # by the second it is known how wide logits are
    line = first.head_rows[0][1]
    rows = [n for n, _, _ in first.head_rows]
    whole = max(sum(n for n, _ in first.losses), first.tokens, *rows)
    if len(rows) < 2 or max(rows) > HALF * whole:
        return no("the logits of the whole batch are made at once", line)
    held = [bytes_before for _, _, bytes_before in first.head_rows]
    # the slice before may still have a name in the loop, so that growth counts from the second on
    grown, added = (held[-1] - held[1], rows[2:]) if len(rows) > 2 else (held[-1] - held[0], rows[1:])
    if grown > HALF * sum(added) * log.vocabulary * LOW_BYTES:
        return no("the logits of every slice are kept for the backward pass, so that all exist at once", line)
    if wrong := _wrong_mean(first):
        return no(wrong, line)
    return yes(f"logits are made for {max(rows)} of {whole} tokens at a time, and the loss is the same", line)


def _wrong_mean(one: Forward) -> str:
    """Is what went backward not the mean over all tokens?"""
    total = sum(rows for rows, _ in one.losses)
    if len(one.losses) < 2 or not total or not one.roots:
        return ""
    mean = sum(rows * loss for rows, loss in one.losses) / total
    root = sum(one.roots)
    parts = round(mean / root) if root > 0 else 0  # micro-batches divide it
    if parts < 1 or abs(root * parts / mean - 1) > 0.02:
        return f"the parts are summed to {root:.2f}, and the mean over all tokens is {mean:.2f}"
    of_parts = sum(loss for _, loss in one.losses) / len(one.losses)
    uneven = len({rows for rows, _ in one.losses}) > 1
    if uneven and abs(root * parts - of_parts) < abs(root * parts - mean):
        return "parts of unequal size are averaged with equal weights"
    return ""


# --- shared ---


def _share(log: TrainingLog, what: str) -> float:
    total = sum(f.work for f in log.training)
    return sum(f.work_by[what] for f in log.training) / total if total else 0.0


def _low_dtype(log: TrainingLog) -> str:
    return max(("bfloat16", "float16"), key=lambda dtype: _share(log, f"low:{dtype}"))


def _groups(log: TrainingLog) -> list[list[Forward]]:
    """Training passes by the update that follows them; what no update follows is left out."""
    groups: list[list[Forward]] = []
    open_group: list[Forward] = []
    for one in log.training:
        open_group.append(one)
        if one.updated >= HALF * log.n_parameters:
            groups.append(open_group)
            open_group = []
    return groups


RULES: dict[str, Callable[[TrainingLog], Finding]] = {
    rule.__name__: rule
    for rule in (
        mixed_precision_autocast, grad_scaler_or_bf16, gradient_checkpointing, gradient_accumulation, zero_grad_set_to_none,
        no_grad_eval, sdpa_flash_attention, low_memory_optimizer, cpu_offload, torch_compile, in_place_ops, del_and_empty_cache,
        channels_last, activation_offload, param_dtype_bf16, loss_item_detach, pinned_memory_nonblocking, chunked_loss,
    )
}  # fmt: skip
