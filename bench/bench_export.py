"""Export of a large workspace: rows a second and memory, against model instances and json.dumps.

Each measurement runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("BENCH_DIR", Path(tempfile.gettempdir()) / "touchstone-bench"))
FORMATS = ("scalar-jsonl", "csv", "parquet")
BASELINE_ROWS = 2_000
ROWS_BAR, MEMORY_BAR_MB, GROWTH_BAR_MB = 20_000, 300, 60  # rows a second, MB, MB


def run(n: int = 100_000) -> list[dict[str, Any]]:
    _measure("build", n)
    baseline = _measure("baseline", n)
    results = []
    for name in FORMATS:
        found = _measure(name, n)
        against = {"baseline": "model instances, json.dumps", "baseline_value": baseline["rows_per_s"]} if name == "scalar-jsonl" else {}
        bar = {"bar": ROWS_BAR} if name != "parquet" else {}
        results.append({"name": f"export {name}", "value": found["rows_per_s"], "unit": "rows/s", "better": "higher", **against, **bar})
        results.append({"name": f"export {name}, peak memory", "value": found["peak_mb"], "unit": "MB", "bar": MEMORY_BAR_MB})
        results.append(
            {"name": f"export {name}, memory from 10 % to the end", "value": found["growth_mb"], "unit": "MB", "bar": GROWTH_BAR_MB}
        )
    return results


def _measure(what: str, n: int) -> dict[str, float]:
    folder = FOLDER / f"pages-{n}"  # the workspace of bench_pages
    folder.mkdir(parents=True, exist_ok=True)
    names = {"DATA_DIR": str(folder), "DEMO": "1", "DATABASE_URL": "", "LOG_LEVEL": "ERROR", "DJANGO_SETTINGS_MODULE": "reviewapp.settings"}
    command = [sys.executable, "-m", "bench.bench_export", what, str(n)]
    done = subprocess.run(command, env={**os.environ, **names}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def build(n: int) -> dict[str, float]:
    from django.core.management import call_command  # noqa: PLC0415 - Django is set up by main

    from bench.workspace import build_workspace  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    build_workspace(n, FOLDER)
    return {}


def measure_export(file_format: str, n: int) -> dict[str, float]:
    from reviewapp.rewards.export import write_export  # noqa: PLC0415
    from reviewapp.rewards.spec import Spec  # noqa: PLC0415

    at_tenth: list[float] = []
    held: list[float] = [0.0]

    def watch(stage: str, done: int, total: int) -> None:
        held.append(_held_mb())
        if not at_tenth and done >= total / 10:
            at_tenth.append(max(held))

    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        start = time.perf_counter()
        manifest = write_export(Spec(format=file_format), Path(folder) / "out", watch)
        seconds = time.perf_counter() - start
    return {"rows_per_s": manifest["rows"] / seconds, "peak_mb": max(held), "growth_mb": max(held) - at_tenth[0]}


def measure_baseline() -> dict[str, float]:
    """The plain way: a model instance for everything, a dict, json.dumps."""
    from reviewapp.models import Output  # noqa: PLC0415

    outputs = Output.objects.filter(is_latest=True).select_related("task", "variant", "prompt", "body")
    outputs = outputs.prefetch_related("grades__grader", "grades__criterion_scores__criterion").order_by("task__slug", "external_id")
    start = time.perf_counter()
    with tempfile.TemporaryFile("w") as file:
        rows = 0
        for output in outputs[:BASELINE_ROWS].iterator(chunk_size=500):
            grades = [
                {"grader": g.grader.name, "score": g.overall, "criteria": {s.criterion.key: s.score for s in g.criterion_scores.all()}}
                for g in output.grades.all()
            ]
            row = {"id": output.external_id, "task": output.task.slug, "prompt": output.prompt.text, "content": output.body.content}
            file.write(json.dumps({**row, "label": output.label_score, "grades": grades}) + "\n")
            rows += 1
    return {"rows_per_s": rows / (time.perf_counter() - start)}


def _held_mb() -> float:
    """What this process and those it started hold by themselves: the pages of the database file are the system's cache."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    return sum(_own_mb(pid) for pid in ("self", *children.split()))


def _own_mb(pid: str) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0) / 1024


def main(what: str, n: int) -> dict[str, float]:
    import django  # noqa: PLC0415

    django.setup()
    if what == "build":
        return build(n)
    return measure_baseline() if what == "baseline" else measure_export(what, n)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
