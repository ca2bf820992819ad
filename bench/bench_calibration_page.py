"""The calibration page for 10,000 labelled outputs: cold, cached, and after a new label, on SQLite, in process.

A made-up study of four criteria, three people and a judge, five outputs a prompt, comes in by the importer and is kept in
BENCH_DIR. All figures are made with 2,000 clustered resamples. CPU time counts: other work on the machine does not.

Cold is twice: the first page that a new process shows after its home page, with what it imports, and one with an empty
cache. After a new label the process has the grades that it read before, and everything else is made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.bench_pages import FOLDER, client_of

LABELLED, PER_PROMPT, PEOPLE = 10_000, 5, 3
CRITERIA = ("coherence", "consistency", "fluency", "relevance")
PAGE = "/calibration/bench_study/"
REPEATS, COLD_REPEATS = 20, 5


def run(n: int) -> list[dict[str, Any]]:
    """The size is that of the requirement: n, the outputs of the workspace, does not matter."""
    folder = FOLDER / f"calibration-{LABELLED}"
    folder.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "DATA_DIR": str(folder),
        **{"DEMO": "1", "DEBUG": "0", "DATABASE_URL": "", "LOG_LEVEL": "ERROR", "DJANGO_SETTINGS_MODULE": "reviewapp.settings"},
    }
    command = [sys.executable, "-m", "bench.bench_calibration_page", "measure"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> list[dict[str, Any]]:
    """In a process of its own, which has the study as its database."""
    from django.core.cache import cache  # noqa: PLC0415 - Django is set up by main
    from django.core.management import call_command  # noqa: PLC0415

    from reviewapp.models import Grade  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    if not Grade.objects.exists():
        build_study()
    client = client_of("admin")
    client.get("/")
    first = timed(lambda: client.get(PAGE), 1)
    cold = timed(lambda: client.get(PAGE), COLD_REPEATS, before=cache.clear)
    criterion = timed(lambda: client.get(f"{PAGE}?criterion=fluency"), COLD_REPEATS, before=cache.clear)
    cached = timed(lambda: client.get(PAGE), REPEATS)
    relabelled = timed(lambda: client.get(PAGE), COLD_REPEATS, before=relabel)
    return [
        {"name": "first page of a process", **first, "bar": 1000},
        {"name": "page, cold", **cold, "bar": 1000},
        {"name": "page of one criterion, cold", **criterion, "bar": 1000},
        {"name": "page after a new label", **relabelled, "bar": 1000},
        {"name": "page, cached", **cached, "bar": 150, "baseline": "the same page, cold", "baseline_value": cold["value"]},
    ]


def timed(call: Callable[[], Any], times: int, before: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    taken, walls = [], []
    for _ in range(times):
        before()
        start, wall = time.process_time(), time.perf_counter()
        assert call().status_code == 200
        taken.append(1000 * (time.process_time() - start))
        walls.append(1000 * (time.perf_counter() - wall))
    return {"value": median(taken), "unit": "ms", "wall": median(walls)}


def relabel() -> None:
    """A grade more, by the way of the app."""
    from reviewapp.grading import Answer, record_human_grade  # noqa: PLC0415
    from reviewapp.models import Output, User  # noqa: PLC0415

    answers = {key: Answer(score=3.0) for key in CRITERIA}
    rater = User.objects.get(username="bench-admin")
    record_human_grade(Output.objects.order_by("?").first(), rater, "blind", answers, key=f"bench-{time.time_ns()}")


def build_study() -> None:
    import tasks.task as spec  # noqa: PLC0415
    from reviewapp.catalog.sync import save_task  # noqa: PLC0415
    from reviewapp.interchange.importer import import_file  # noqa: PLC0415

    criteria = tuple(spec.Criterion(key=key, title=key.capitalize(), weight=0.25, scale=(1, 5)) for key in CRITERIA)
    rubric = spec.Rubric(criteria=criteria, scale=(1, 5), pass_threshold=4.0)
    variants = (spec.Variant(name="default", prompt=""),)
    title = "Bench study"
    save_task(spec.Task(slug="bench_study", title=title, description="", rubric=rubric, variants=variants, primary_grader="judge"))
    path = FOLDER / f"study-{LABELLED}.jsonl"
    path.write_text("".join(json.dumps(output) + "\n" for output in outputs()))
    import_file(path)


def outputs() -> list[dict[str, Any]]:
    rng = random.Random(1)  # noqa: S311 - no secret
    made = []
    for number in range(LABELLED):
        quality = rng.gauss(3.4, 1)
        grades = [_grade(rng, quality - 0.3, {"grader": "judge", "kind": "llm_judge"})]
        grades += [_grade(rng, quality, {"grader": "human", "kind": "human", "rater": f"p{p}", "mode": "blind"}) for p in range(PEOPLE)]
        prompt, model = f"Prompt {number // PER_PROMPT}", f"model-{number % 7}"
        made.append({"external_id": f"study/{number}", "task": "bench_study", "prompt": prompt, "model": model, "variant": "default"})
        made[-1] |= {"content": "x" * rng.randint(100, 900), "grades": grades}
    return made


def _grade(rng: random.Random, quality: float, who: dict[str, str]) -> dict[str, Any]:
    return {"version": "1", "criteria": {key: {"score": min(5, max(1, round(rng.gauss(quality, 0.75))))} for key in CRITERIA}, **who}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["measure"])
    if parser.parse_args().what:
        import django  # noqa: PLC0415

        django.setup()
        print(json.dumps(measure()))
    else:
        for row in run(0):
            print(row)


if __name__ == "__main__":
    main()
