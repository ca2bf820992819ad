"""Runs an fsdp_training submission under simulated launches and reports what happened. Runs INSIDE the sandbox.

This process never runs the submission: ranks are forks of it, and it can't be read or traced by them. stdin: a JSON
order with the nonce, read after the last rank has ended; descriptor 3: one JSON report that repeats it.
"""

from __future__ import annotations

import ast
import ctypes
import dataclasses
import json
import os
import re
import resource
import sys
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch
import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
from fsdp_beyond import asked_variables, has_limits
from fsdp_launch import Launch, perform
from fsdp_mend import BEYOND

CHANNEL_FD = 3
PR_SET_DUMPABLE = 4
WALL_S, LEAVE_S, DEFAULT_S = 90.0, 12.0, 120.0
MAX_RUNS = 6
MAX_LINES = 3  # of those that are led another way one by one
SMALL = {"epochs": 2, "batch-size": 4, "n-samples": 16, "lr": 0.01}
# With SEVERAL, neither a block nor the whole divides by the number of ranks: a shard times that number is not the whole.
# Three epochs there: an order that comes back every other epoch, or changes once, is no new order each epoch.
A = {**SMALL, "seq-len": 12, "vocab-size": 131, "d-model": 32, "n-heads": 2, "n-layers": 2, "seed": 3, "out": "weights-a.pt"}
LONGER = {**SMALL, "epochs": 3, "n-samples": 24}
B = {**LONGER, "seq-len": 10, "vocab-size": 113, "d-model": 25, "n-heads": 5, "n-layers": 3, "seed": 13, "out": "last-b.pt"}
ONE_NODE = Launch("one node", 1, 2, 2, A)
SEVERAL_NODES = Launch("three nodes", 3, 1, 2, B, managed=True)  # the third's global rank is no GPU of its node
# The starter's own options, as most people run it: each epoch is cut short, or run whole where that breaks the program.
OWN = {
    "epochs": 2, "batch-size": 16, "n-samples": 512, "seq-len": 64, "vocab-size": 512, "d-model": 128, "n-heads": 4, "n-layers": 4,
    "lr": 3e-4, "seed": 0, "out": "checkpoint.pt",
}  # fmt: skip
DEFAULTS = Launch("default options", 1, 2, 2, OWN, told=False, batches=2)
WHOLE = Launch("default options", 1, 2, 2, OWN, told=False, cpu_s=60.0)
LARGER = dataclasses.replace(ONE_NODE, name="larger runs")
ELSEWHERE = dataclasses.replace(ONE_NODE, name="another environment")
PEER = re.compile(r"[Cc]onnection (closed|reset)|[Bb]roken pipe|Timed out|gloo", re.IGNORECASE)
ERRORS = ((re.compile(r"[Pp]rocess group has not been initialized|init_process_group"), "init"),)


def wanted_mends(run: dict[str, Any]) -> set[str]:
    """What would have to be mended for this launch to get further."""
    found: set[str] = set()
    ends = []
    for rank in run["ranks"]:
        for event in rank["events"]:
            if event.get("kind") == "mendable" and not event.get("mended"):
                found.add(str(event.get("mend")))
            if event.get("kind") == "end" and event.get("how") == "exception":
                ends.append(event)
    if found:
        return found
    if alone := _lone_forward(run):
        return {f"without {alone}"}
    found |= {name for pattern, name in ERRORS for end in ends if pattern.search(str(end.get("error")))} - set(run["mends"])
    if found or _lone_gather(run):
        return found or {"gather"}
    if meant := {str(end["mend"]) for end in ends if end.get("mend")} - set(run["mends"]):
        return meant
    raised = [line for end in ends if (line := _first_line(end, of_peers=False))]
    left_alone = [line for end in ends if (line := _first_line(end, of_peers=True))]
    return {f"line {line}" for line in (raised or left_alone)[:1] + _stuck_lines(run) if line}


def _first_line(end: dict[str, Any], *, of_peers: bool) -> int:
    """The line that raised: for a reason of its own, or because the other ranks had left."""
    lines = [n for n in end.get("lines") or [] if isinstance(n, int)]
    return lines[0] if lines and bool(PEER.search(str(end.get("error")))) is of_peers else 0


def _stuck_lines(run: dict[str, Any]) -> list[int]:
    """Where ranks wait for others that are past that."""
    lines = [rank["stuck"][0] for rank in run["ranks"] if rank["stuck"]]
    return lines[:1] if run["hung"] == "idle" else []


def _lone_gather(run: dict[str, Any]) -> bool:
    """Some ranks began to gather a checkpoint and others never did."""
    began = [any(e.get("kind") == "gather" for e in rank["events"]) for rank in run["ranks"]]
    return any(began) and not all(began) and not well(run)


def _lone_forward(run: dict[str, Any]) -> int:
    """The line that leads some ranks into a forward pass of the sharded model that no other rank makes, or 0.

    Sharded, it waits for all ranks. What the ranks do is alike up to there; what comes after it is of their being out of step.
    """
    if well(run):
        return 0
    courses = [[tuple(e.get("path") or ()) for e in rank["events"] if _needs_all(e)] for rank in run["ranks"]]
    pairs = [(number, one, other) for number, one in enumerate(courses) for other in courses if other is not one]
    for number, one, other in pairs:
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        if at == len(one) or not one[at] or one[at] in other:
            continue
        # Where each has what the other lacks, it is the first rank that turned off.
        if number == 0 or (at < len(other) and other[at] in one):
            shared = max(_same(one[at], path) for path in [*other, ()])
            return int(one[at][min(shared, len(one[at]) - 1)])
    return 0


def _needs_all(event: dict[str, Any]) -> bool:
    """A pass of the sharded model, or the start of a gather, which has no path."""
    is_pass = event.get("kind") == "forward" and event.get("model") != "plain"
    return is_pass or (event.get("kind") == "gather" and event.get("phase") == "start")


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def well(run: dict[str, Any]) -> bool:
    return not run["hung"] and all(rank["exit_code"] == 0 for rank in run["ranks"])


def examine(source: str, budget_s: float) -> list[dict[str, Any]]:
    """Both launches as they are; then, where one broke at something known, again with that mended."""
    deadline = time.monotonic() + budget_s
    runs: list[dict[str, Any]] = []
    for launch in (ONE_NODE, SEVERAL_NODES):
        if runs and runs[-1]["hung"] == "time":
            break  # it would take as long again
        mends: set[str] = set()
        for _ in range(MAX_RUNS):
            left = deadline - time.monotonic()
            if left < 3 and runs:
                break
            run = perform(launch, source, sorted(mends), min(WALL_S, left))
            runs.append(run)
            new = wanted_mends(run) - mends
            if well(run) or not new:
                break
            mends |= new
    return runs


def at_defaults(source: str, budget_s: float) -> list[dict[str, Any]]:
    """A launch with the starter's own options, of a program that the others found nothing wrong with."""
    deadline = time.monotonic() + budget_s
    runs = [perform(DEFAULTS, source, [], min(WALL_S, budget_s))]
    if not well(runs[0]) and (left := deadline - time.monotonic()) > 3:
        runs = [perform(WHOLE, source, [], min(WALL_S, left))]
    return runs


def led_another_way(source: str, budget_s: float) -> list[dict[str, Any]]:
    """Launches of a program that ran well, in which it goes the way that larger runs, or other environments, would lead it."""
    deadline = time.monotonic() + budget_s
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    variables = tuple(asked_variables(tree))
    wanted: list[tuple[Launch, list[str]]] = [(dataclasses.replace(ELSEWHERE, variables=variables), [])] if variables else []
    wanted += [(LARGER, [BEYOND])] if has_limits(tree) else []
    runs = []
    while wanted and (left := deadline - time.monotonic()) > 3:
        launch, mends = wanted.pop(0)
        runs.append(run := perform(launch, source, mends, min(WALL_S, left)))
        lines = sorted({e["line"] for rank in run["ranks"] for e in rank["events"] if e.get("kind") == "beyond"})
        if mends == [BEYOND] and not well(run) and len(lines) > 1:  # together they go nowhere
            wanted += [(launch, [BEYOND, f"at {line}"]) for line in lines[:MAX_LINES]]
    return runs


def budget_s() -> float:
    """What the sandbox gives, less what an end in time needs: its limit on CPU time is twice the one on the clock."""
    limit = resource.getrlimit(resource.RLIMIT_CPU)[0]
    wall_s = DEFAULT_S if limit == resource.RLIM_INFINITY else limit / 2
    return max(wall_s - LEAVE_S, wall_s / 2)


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    with open("submission.py", encoding="utf-8") as file:
        source = file.read()
    torch.set_num_threads(1)
    order_fd = os.dup(0)
    began = time.monotonic()
    runs = examine(source, budget_s())
    if all(well(run) for run in runs):
        runs += at_defaults(source, began + budget_s() - time.monotonic())
        runs += led_another_way(source, began + budget_s() - time.monotonic())
    with os.fdopen(order_fd, encoding="utf-8") as file:
        order = json.loads(file.read())
    data = json.dumps({"nonce": order["nonce"], "runs": runs}).encode()
    while data:
        data = data[os.write(CHANNEL_FD, data) :]
    os._exit(0)


if __name__ == "__main__":
    main()
