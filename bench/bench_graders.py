"""Grading: what the sandbox adds to a bare run with torch imported, 100 submissions on two cores, hung ones, memory.

A bare run is a fork of a process that has torch imported, as the warm parent's runs are, with nothing around it.
Ratios are of CPU time of all processes that take part, each pair measured one after the other in the same minute.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from graders import registry, sandbox
from graders.code.channel import PROBES
from graders.sandbox import Limits, warm
from tasks.task import Task, load_tasks

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "reviewapp" / "samples" / "neural_memory"
RATIO_BAR, SECONDS_BAR, MEMORY_BAR_MB = 1.3, 180.0, 2048.0
SUBMISSIONS, ROUNDS, HUNG_S = 100, 3, 3.0
TICKS = os.sysconf("SC_CLK_TCK")

TRAIN = """\
import torch
from torch import nn
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
model = nn.Sequential(nn.Embedding(256, 128), nn.TransformerEncoder(layer, 2), nn.Linear(128, 256))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
tokens = torch.randint(0, 256, (8, 64))
for _ in range(10):
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
"""

# Forks for each path that it reads; answers with the child's CPU and wall seconds.
BARE = """\
import json, os, runpy, sys, time
import torch
torch.set_num_threads(1)
def run(path):
    if path.endswith('.train'):
        runpy.run_path(path)
    else:
        sys.path.insert(0, sys.argv[1])
        import neural_memory_probe
        neural_memory_probe.examine(path)
print('ready', flush=True)
for line in sys.stdin:
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run(line.strip())
        os._exit(0)
    used = os.wait4(pid, 0)[2]
    print(json.dumps([used.ru_utime + used.ru_stime, time.monotonic() - began]), flush=True)
"""


class Bare:
    """A process that has torch imported and forks for each program."""

    def __init__(self, folder: Path) -> None:
        one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        command = [sys.executable, "-c", BARE, str(PROBES)]
        self.folder = folder
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one})
        self._answer()

    def cpu_s(self, name: str, source: str) -> float:
        path = self.folder / name
        path.write_text(source)
        assert self.process.stdin
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return float(json.loads(self._answer())[0])

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()


def run(n: int = 100_000) -> list[dict[str, Any]]:
    if not sandbox.health()["backend"] == "bwrap":
        print("  skipped: no bubblewrap here (apt-get install bubblewrap)")
        return []
    with tempfile.TemporaryDirectory() as folder:
        bare = Bare(Path(folder))
        rows = [*start_rows(), *ratio_rows(bare)]
        bare.process.kill()
    rows += many_rows()
    rows += [hung_row("hung submission, alone", 1), hung_row("hung submissions, 4 at a time", 4)]
    warm.stop()
    return rows


def start_rows() -> list[dict[str, Any]]:
    """A program that only needs torch: forked from the warm parent, and started cold."""
    code = "import torch\nprint(torch.ones(2).sum().item())"
    seconds = {
        start: statistics.median(_timed(lambda start=start: _sandboxed(code, start == "warm")) for _ in range(ROUNDS))
        for start in ("warm", "cold")
    }
    row = {"name": "import torch and one operation, warm start", "value": seconds["warm"] * 1000, "unit": "ms"}
    return [{**row, "baseline": "cold start, ms", "baseline_value": seconds["cold"] * 1000}]


def ratio_rows(bare: Bare) -> list[dict[str, Any]]:
    rows = []
    pairs = [_pair(bare, "program.train", TRAIN, lambda: _sandboxed(TRAIN)) for _ in range(ROUNDS)]
    rows.append(_ratio_row("training program in the sandbox", pairs))
    sources = {path.name: path.read_text() for path in sorted(SAMPLES.glob("*.py"))}
    pairs = [_pair(bare, name, source, lambda source=source: _grade(source)) for name, source in sources.items()]
    rows.append(_ratio_row("neural-memory grading", pairs))
    return rows


def many_rows() -> list[dict[str, Any]]:
    """100 submissions, two at a time: seconds, and the most memory that they and the warm parent held."""
    samples = [path.read_text() for path in sorted(SAMPLES.glob("*.py"))]
    sources = [f"{samples[i % len(samples)]}\n# submission {i}\n" for i in range(SUBMISSIONS)]
    peaks: list[float] = []
    _grade("")
    used = _all_cpu_s()
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for grade in pool.map(_grade, sources):
            assert grade.runs is not None and grade.sandbox["warm"], grade.sandbox
            peaks.append(float(grade.peak_memory_mb or 0))
    seconds = time.monotonic() - began
    used = _all_cpu_s() - used
    held = 2 * max(peaks) + _resident_mb(_parent_pid())
    return [
        {"name": f"{SUBMISSIONS} neural-memory submissions, 2 at a time", "value": seconds, "unit": "s", "bar": SECONDS_BAR},
        {"name": "the same, CPU of all processes", "value": used, "unit": "s", "bar": 2 * SECONDS_BAR},
        {"name": "most memory of two runs and the warm parent", "value": held, "unit": "MB", "bar": MEMORY_BAR_MB},
    ]


def hung_row(name: str, at_once: int) -> dict[str, Any]:
    def hang(_: int) -> float:
        return _timed(lambda: _grade("while True: pass", timeout_s=HUNG_S))

    with ThreadPoolExecutor(at_once) as pool:
        seconds = max(pool.map(hang, range(at_once)))
    return {"name": name, "value": seconds, "unit": "s", "baseline": "its limit, s", "baseline_value": HUNG_S, "bar": HUNG_S + 1}


def _pair(bare: Bare, name: str, source: str, graded: Any) -> tuple[float, float]:
    """(CPU seconds bare, CPU seconds graded)."""
    alone = bare.cpu_s(name, source)
    before = _all_cpu_s()
    graded()
    return alone, _all_cpu_s() - before


def _ratio_row(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """The ratio of the sums: what grading all of them costs against running all of them."""
    bare, graded = (sum(pair[i] for pair in pairs) for i in (0, 1))
    row = {"name": f"{name}, CPU against the bare run", "value": graded / bare, "unit": "times", "bar": RATIO_BAR}
    return {**row, "bare_cpu_s": round(bare / len(pairs), 3), "graded_cpu_s": round(graded / len(pairs), 3)}


def _all_cpu_s() -> float:
    """Of this process and of the warm parent with the runs that it has reaped."""
    time.sleep(1.1)  # it reaps once a second when it is idle
    fields = Path(f"/proc/{_parent_pid()}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS


def _parent_pid() -> int:
    """The warm parent itself: the only child of its bwrap."""
    parent = warm.current()
    assert parent
    return int(Path(f"/proc/{parent.process.pid}/task/{parent.process.pid}/children").read_text().split()[0])


def _resident_mb(pid: int) -> float:
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(rows["VmRSS"].split()[0]) / 1024


def _sandboxed(code: str, is_warm: bool = True) -> None:
    result = sandbox.run({"main.py": code}, ["python", "main.py"], Limits(), "bwrap", warm=is_warm)
    assert result.exit_code == 0 and result.warm == is_warm, result


def _grade(source: str, timeout_s: float | None = None) -> Any:
    return registry.get("neural_memory").grade(_task(), source, backend="bwrap", timeout_s=timeout_s)


@cache
def _task() -> Task:
    return next(task for task in load_tasks() if task.slug == "neural_memory")


def _timed(act: Any) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began
