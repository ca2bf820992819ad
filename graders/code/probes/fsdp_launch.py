"""One simulated launch: its ranks as forks of this process, watched until all have ended or nothing moves any more.

Runs INSIDE the sandbox, in the process that the submission can't reach. A launch costs its own limit and no more: when
no rank has used any CPU for a while, the ranks are asked where they wait and then ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsdp_node
import fsdp_weights
import torch
from fsdp_rank import Place, run_rank
from fsdp_record import mark
from fsdp_weights import Joined
from torch._C._distributed_c10d import TCPStore

IDLE_S, POLL_S = 3.0, 0.05
CPU_S = 20.0  # of one rank: some ten times what a right program needs
TEXT_CAP, EVENT_CAP = 1 << 18, 1 << 20
ADDRESS, TICKS = "127.1.0.1", os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Launch:
    """`torchrun --nnodes N --nproc_per_node M train.py OPTIONS` on nodes with `gpus` GPUs each."""

    name: str
    nodes: int
    per_node: int
    gpus: int
    options: Mapping[str, Any]
    managed: bool = False
    told: bool = True  # are the options on the command line, or are they the starter's own?
    batches: int = 0  # that a loader gives in an epoch; 0: all
    cpu_s: float = CPU_S
    variables: tuple[str, ...] = ()  # of the environment that are set beside those of torchrun and the machine

    @property
    def gpu(self) -> str:
        return "NVIDIA H100 80GB HBM3" if self.managed else "NVIDIA A100-SXM4-80GB"

    @property
    def world(self) -> int:
        return self.nodes * self.per_node

    def argv(self) -> list[str]:
        return [part for name, value in self.options.items() for part in (f"--{name}", str(value))] if self.told else []


@dataclass(frozen=True)
class Scene:
    """What all ranks of a launch share: its folder, the program, the store's port and what is mended."""

    base: str
    source: str
    port: int
    mends: tuple[str, ...]


@dataclass
class Rank:
    """A running rank as the conductor sees it."""

    place: Place
    pid: int
    pipes: dict[str, int]
    text: dict[str, bytes] = field(default_factory=lambda: {"events": b"", "stdout": b"", "stderr": b"", "stacks": b""})
    status: int | None = None
    ticks: int = -1
    stuck: list[int] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.status is None


def perform(launch: Launch, source: str, mends: Sequence[str], wall_s: float) -> dict[str, Any]:
    """Run a launch and say what happened."""
    base = tempfile.mkdtemp(prefix="job-", dir="/tmp" if os.access("/tmp", os.W_OK) else None)  # noqa: S108 (no other user is there)
    fsdp_node.put_tool(f"{base}/bin", launch.gpu)
    port, agent = _start_store(launch.world)
    ranks: list[Rank] = []
    began = time.monotonic()
    try:
        scene = Scene(base, source, port, tuple(mends))
        ranks = [_start(launch, r, scene) for r in range(launch.world)]
        hung = _watch(ranks, began + wall_s, launch.cpu_s)
    finally:
        for rank in ranks:
            _end(rank)
        with contextlib.suppress(OSError):
            os.kill(agent, signal.SIGKILL)
            os.waitpid(agent, 0)
    weights = _weights(ranks)
    facts = {
        "name": launch.name,
        "nodes": launch.nodes,
        "per_node": launch.per_node,
        "gpus": launch.gpus,
        "short": launch.batches > 0,
        "mends": sorted(mends),
        "hung": hung,
        "wall_s": round(time.monotonic() - began, 2),
        "options": dict(launch.options),
        "total": sum(w.numel() for w in weights.whole.values()),
        "sharded": weights.sharded,
        "apart": list(weights.apart)[:8],
        "no_weights": weights.why,
        "data": _data(launch),
        "ranks": [_facts(rank, str(launch.options["out"]), weights) for rank in ranks],
    }
    shutil.rmtree(base, ignore_errors=True)
    return facts


def _start_store(world: int) -> tuple[int, int]:
    """The agent's store, in a process of its own as under torchrun: (port, pid)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            store = TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
            os.write(theirs, str(store.port).encode())
            while True:
                time.sleep(3600)
        os._exit(1)
    os.close(theirs)
    port = os.read(ours, 16)
    os.close(ours)
    return int(port), pid


def _start(launch: Launch, number: int, scene: Scene) -> Rank:
    base = scene.base
    node, local = divmod(number, launch.per_node)
    folder = f"{base}/rank{number}"
    os.makedirs(folder)
    path = f"{base}/node{node}/train.py"
    if local == 0:
        os.makedirs(os.path.dirname(path))
        with open(path, "w", encoding="utf-8") as file:
            file.write(scene.source)
    pipes = {name: os.pipe() for name in ("events", "stdout", "stderr", "stacks")}
    with tempfile.TemporaryFile(dir=base) as kept:
        weights = os.dup(kept.fileno())
    place = Place(
        rank=number,
        local_rank=local,
        env={
            **_env(launch, number, scene.port),
            **fsdp_node.environment(launch.managed, node, launch.nodes, launch.gpus),
            **dict.fromkeys(launch.variables, "1"),
            "HOME": base,
            "PATH": f"{base}/bin:{os.environ.get('PATH', os.defpath)}",
            "TORCHELASTIC_ERROR_FILE": f"{base}/error-{number}.json",
        },
        folder=folder,
        path=path,
        gpus=launch.gpus,
        gpu=launch.gpu,
        argv=launch.argv(),
        batches=launch.batches,
        n_layers=int(launch.options["n-layers"]),
        mends=frozenset(scene.mends),
        key=os.urandom(16),
        weights=weights,
        **{name: pipe[1] for name, pipe in pipes.items()},
    )
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for pipe in pipes.values():
            os.close(pipe[0])
        run_rank(place)
    for pipe in pipes.values():
        os.close(pipe[1])
    return Rank(place, pid, {name: pipe[0] for name, pipe in pipes.items()})


def _env(launch: Launch, number: int, port: int) -> dict[str, str]:
    node, local = divmod(number, launch.per_node)
    told = {
        "RANK": number,
        "LOCAL_RANK": local,
        "WORLD_SIZE": launch.world,
        "LOCAL_WORLD_SIZE": launch.per_node,
        "GROUP_RANK": node,
        "GROUP_WORLD_SIZE": launch.nodes,
        "ROLE_RANK": number,
        "ROLE_WORLD_SIZE": launch.world,
        "ROLE_NAME": "default",
        "MASTER_ADDR": ADDRESS,
        "MASTER_PORT": port,
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": 1,
        "OMP_NUM_THREADS": 1,
    }
    return {name: str(value) for name, value in told.items()}


# --- watching ---------------------------------------------------------------------------------------------


def _watch(ranks: list[Rank], deadline: float, cpu_s: float) -> str:
    """ "" when every rank ended; else "idle" (nothing moves) or "time"."""
    poller = select.poll()
    owner = {fd: (rank, name) for rank in ranks for name, fd in rank.pipes.items()}
    for fd in owner:
        os.set_blocking(fd, False)
        poller.register(fd, select.POLLIN)
    moved = time.monotonic()
    while any(rank.alive for rank in ranks):
        for fd, _ in poller.poll(POLL_S * 1000):
            if not _read(fd, *owner[fd]):
                poller.unregister(fd)
        for rank in ranks:
            _reap(rank)
        now = time.monotonic()
        if any([_ran(rank) for rank in ranks if rank.alive]):
            moved = now
        used_up = any(rank.ticks > cpu_s * TICKS for rank in ranks if rank.alive)
        if used_up or now > deadline or now - moved > IDLE_S:
            _ask_where(ranks, owner)
            return "time" if used_up or now > deadline else "idle"
    for fd, (rank, name) in owner.items():
        while _read(fd, rank, name):
            pass
    return ""


def _read(fd: int, rank: Rank, name: str) -> bool:
    try:
        chunk = os.read(fd, 1 << 16)
    except BlockingIOError:
        return False
    cap = EVENT_CAP if name == "events" else TEXT_CAP
    rank.text[name] = (rank.text[name] + chunk)[:cap]
    return bool(chunk)


def _reap(rank: Rank) -> None:
    if rank.alive:
        done, status = os.waitpid(rank.pid, os.WNOHANG)
        if done:
            rank.status = status


def _ran(rank: Rank) -> bool:
    """Has the rank used the CPU, or is it about to?"""
    try:
        with open(f"/proc/{rank.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return True
    ticks = int(fields[11]) + int(fields[12]) + _of_children(rank.pid)
    moved = ticks != rank.ticks or fields[0] in "RD"
    rank.ticks = ticks
    return moved


def _of_children(pid: int) -> int:
    """What processes have used that a rank started and may wait for."""
    ticks = 0
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
            children = file.read().split()
        for child in children:
            with open(f"/proc/{child}/stat", encoding="utf-8") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) + _of_children(int(child))
    return ticks


def _ask_where(ranks: list[Rank], owner: Mapping[int, tuple[Rank, str]]) -> None:
    """Every rank that is left writes its stack; the lines of the submission in it, innermost first."""
    waiting = [rank for rank in ranks if rank.alive]
    for rank in waiting:
        with contextlib.suppress(OSError):
            os.kill(rank.pid, signal.SIGUSR1)
    time.sleep(0.3)
    for fd, (rank, name) in owner.items():
        while _read(fd, rank, name):
            pass
    for rank in waiting:
        text = rank.text["stacks"].decode(errors="replace")
        rank.stuck = [int(n) for n in re.findall(rf'File "{re.escape(rank.place.path)}", line (\d+) in', text)][:6] or [0]


def _end(rank: Rank) -> None:
    if rank.alive:
        with contextlib.suppress(OSError):
            os.kill(rank.pid, signal.SIGKILL)
        _, rank.status = os.waitpid(rank.pid, 0)
    for fd in rank.pipes.values():
        with contextlib.suppress(OSError):
            os.close(fd)


# --- what is left -----------------------------------------------------------------------------------------


def _events(rank: Rank) -> list[dict[str, Any]]:
    """What the rank told, as far as the marks are right."""
    events: list[dict[str, Any]] = []
    for number, line in enumerate(rank.text["events"].splitlines(), 1):
        told, _, text = line.partition(b" ")
        if told != mark(rank.place.key, number, text):
            return [*events, {"kind": "tampered", "line": 0, "names": ["the record of its run"]}]
        events.append(json.loads(text))
    return events


def _weights(ranks: Sequence[Rank]) -> Joined:
    try:
        dumps = []
        for rank in ranks:
            size = os.lseek(rank.place.weights, 0, os.SEEK_END)
            if not size:
                return Joined(why=f"rank {rank.place.rank} wrapped no model")
            data = os.pread(rank.place.weights, size, 0)
            told = [e.get("sha256") for e in _events(rank) if e.get("kind") == "weights"]
            if hashlib.sha256(data).hexdigest() not in told[-1:]:
                return Joined(why=f"the weights of rank {rank.place.rank} are not those that it told of")
            dumps.append(fsdp_weights.read(data))
        return fsdp_weights.join(dumps)
    except Exception as error:
        return Joined(why=f"{type(error).__name__}: {error}"[:300])
    finally:
        for rank in ranks:
            os.close(rank.place.weights)


def _data(launch: Launch) -> list[int]:
    """The rows of the starter's data set under these options, named as the ranks name what they see."""
    n, length, vocab, seed = (int(launch.options[name]) for name in ("n-samples", "seq-len", "vocab-size", "seed"))
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab, (n, 1), generator=generator)
    step = torch.randint(1, 7, (n, 1), generator=generator)
    rows = ((start + step * torch.arange(length + 1)) % vocab).tolist()
    return [hash(tuple(part)) & 0x7FFFFFFF for row in rows for part in (row[:-1], row)]


def _facts(rank: Rank, out: str, weights: Joined) -> dict[str, Any]:
    events = _events(rank)
    status = rank.status or 0
    files = sorted(os.path.relpath(os.path.join(top, n), rank.place.folder) for top, _, names in os.walk(rank.place.folder) for n in names)
    path = os.path.join(rank.place.folder, out)
    is_plain = os.path.isfile(path) and not os.path.islink(path)
    return {
        "rank": rank.place.rank,
        "local_rank": rank.place.local_rank,
        "node": int(rank.place.env["GROUP_RANK"]),
        "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "stuck": rank.stuck,
        "events": events,
        "files": files[:20],
        "checkpoint": fsdp_weights.compare(path, weights.whole, weights.buffers) if is_plain else None,
        "stdout": rank.text["stdout"].decode(errors="replace")[:20000],
        "stderr": rank.text["stderr"].decode(errors="replace")[-4000:],
    }
