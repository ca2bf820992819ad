"""Import of a large file into a fresh database: outputs a second and memory, against Django's bulk_create.

The baseline makes the same rows out of the same lines with model instances and bulk_create, on 5,000 outputs:
no checks, no hashes, no labels, nothing looked up. Each measurement runs in a process and a database of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("BENCH_DIR", Path(tempfile.gettempdir()) / "touchstone-bench"))
BASELINE_OUTPUTS = 5_000
SPEED_BAR, MEMORY_BAR_MB, GROWTH_BAR_MB = 3_000, 300, 20


def run(n: int = 100_000) -> list[dict[str, Any]]:
    from bench.workspace import write_outputs  # noqa: PLC0415

    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"outputs-{n}.jsonl"
    if not path.exists():
        write_outputs(n, path)
    baseline = _measure("baseline", path)
    found = _measure("import", path)
    speed = {"value": found["per_s"], "unit": "outputs/s", "better": "higher", "bar": SPEED_BAR}
    return [
        {"name": "import, 3 grades each", **speed, "baseline": "bulk_create", "baseline_value": baseline["per_s"]},
        {"name": "import, peak memory", "value": found["peak_mb"], "unit": "MB", "bar": MEMORY_BAR_MB},
        {"name": "import, memory from half way to the end", "value": found["growth_mb"], "unit": "MB", "bar": GROWTH_BAR_MB},
        {"name": "import of the same file again", "value": found["again_per_s"], "unit": "outputs/s", "better": "higher"},
    ]


def _measure(what: str, path: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="import-", dir=FOLDER) as folder:
        env = {**os.environ, "DATA_DIR": folder, "DEMO": "1", "DATABASE_URL": "", "DJANGO_SETTINGS_MODULE": "reviewapp.settings"}
        command = [sys.executable, "-m", "bench.bench_import", what, str(path)]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_import(path: Path) -> dict[str, float]:
    from reviewapp.interchange.importer import import_file  # noqa: PLC0415 - Django is set up by main

    seen: list[float] = []

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "Writing" and not seen and done >= total / 2:
            seen.append(peak_mb())

    start = time.perf_counter()
    report = import_file(path, on_progress=watch)
    seconds = time.perf_counter() - start
    peak = peak_mb()
    start = time.perf_counter()
    again = import_file(path)
    again_s = time.perf_counter() - start
    assert not again.changes_something
    per_s, again_per_s = report.outputs_new / seconds, again.outputs / again_s
    return {"per_s": per_s, "peak_mb": peak, "growth_mb": peak - seen[0], "again_per_s": again_per_s}


def measure_baseline(path: Path) -> dict[str, float]:
    from django.db import transaction  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from reviewapp.catalog.sync import save_grader, save_variant  # noqa: PLC0415
    from reviewapp.models import Criterion, CriterionScore, Grade, Output, OutputBody, Task  # noqa: PLC0415
    from tasks.task import Variant  # noqa: PLC0415

    start = time.perf_counter()
    with path.open("rb") as file, transaction.atomic():
        rows = [json.loads(line) for line in islice(file, BASELINE_OUTPUTS)]
        tasks = {task.slug: task for task in Task.objects.all()}
        variants = {slug: save_variant(task, Variant(name="default", prompt="")) for slug, task in tasks.items()}
        criteria = {(c.rubric_id, c.key): c for c in Criterion.objects.all()}
        graders = {(g["grader"], g["kind"]): save_grader(g["grader"], "1", g["kind"]) for row in rows for g in row["grades"]}
        outputs, bodies, grades, scores = [], [], [], []
        for row in rows:
            task = tasks[row["task"]]
            output = Output(task=task, variant=variants[task.slug], external_id=row["external_id"], model=row["model"],
                            content_hash="0" * 64, length=len(row["content"]), created_at=timezone.now())  # fmt: skip
            outputs.append(output)
            bodies.append(OutputBody(output=output, content=row["content"]))
            for number, given in enumerate(row["grades"]):
                mode = "blind" if given["kind"] == "human" else "automatic"
                grade = Grade(output=output, grader=graders[given["grader"], given["kind"]], rubric_id=task.rubric_id, mode=mode,
                              rater_name=given.get("rater", ""), overall=5.0, key=str(number))  # fmt: skip
                grades.append(grade)
                for key, said in given["criteria"].items():
                    scores.append(CriterionScore(grade=grade, criterion=criteria[task.rubric_id, key], **said))
        for model, instances in ((Output, outputs), (OutputBody, bodies), (Grade, grades), (CriterionScore, scores)):
            model.objects.bulk_create(instances, batch_size=1000)
    return {"per_s": len(rows) / (time.perf_counter() - start)}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["import", "baseline"], help="one measurement, in this process and its database")
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--n", type=int, default=100_000, help="outputs")
    options = parser.parse_args()
    if not options.what:
        from bench.__main__ import line  # noqa: PLC0415

        print("\n".join(map(line, run(options.n))))
        return
    import django  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415

    django.setup()
    call_command("migrate", verbosity=0)
    from bench.workspace import SHARES, bench_task  # noqa: PLC0415
    from reviewapp.catalog.sync import save_task  # noqa: PLC0415

    for slug in SHARES:
        save_task(bench_task(slug))
    measure = measure_import if options.what == "import" else measure_baseline
    print(json.dumps(measure(options.path)))


if __name__ == "__main__":
    main()
