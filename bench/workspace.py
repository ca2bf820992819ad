"""A large made-up workspace for benchmarks: outputs of several tasks with three grades each, through the importer.

One in ten outputs has a third judge in place of a person, so that every sortable column has rows without a value.
The same n gives the same file.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tasks.task as spec

# Uneven on purpose: a filter by task then keeps most rows, some, or hardly any.
SHARES = {"bench_large": 0.60, "bench_half": 0.25, "bench_tenth": 0.10, "bench_few": 0.049, "bench_rare": 0.001}
CRITERIA = ("viability", "upside", "success", "novelty")
CONTENT_CHARS = 1000


def build_workspace(n: int, folder: Path) -> None:
    """Fill the current database; a workspace that already has n outputs is kept."""
    from reviewapp.catalog.sync import save_task  # noqa: PLC0415 - Django is set up by the caller
    from reviewapp.interchange.importer import import_file  # noqa: PLC0415
    from reviewapp.models import Output  # noqa: PLC0415

    if Output.objects.count() == n:
        return
    for slug in SHARES:
        save_task(bench_task(slug))
    path = folder / f"outputs-{n}.jsonl"
    if not path.exists():
        write_outputs(n, path)
    import_file(path)


def bench_task(slug: str) -> spec.Task:
    criteria = tuple(spec.Criterion(key=key, title=key.capitalize(), weight=0.25) for key in CRITERIA)
    rubric = spec.Rubric(criteria=criteria, pass_threshold=7.0)
    variants = (spec.Variant(name="default", prompt=f"The prompt of {slug}."), spec.Variant(name="hints", prompt="With hints."))
    title = slug.replace("_", " ").capitalize()
    return spec.Task(slug=slug, title=title, description="", rubric=rubric, variants=variants, primary_grader="judge-a")


def write_outputs(n: int, path: Path) -> None:
    rng = random.Random(1)  # noqa: S311 - no secret
    words, weights = _vocabulary(rng)
    slugs = rng.choices(list(SHARES), list(SHARES.values()), k=n)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for number, slug in enumerate(slugs):
            file.write(json.dumps(_output(rng, number, slug, words, weights)) + "\n")
    part.rename(path)


def _output(rng: random.Random, number: int, slug: str, words: list[str], weights: list[float]) -> dict[str, Any]:
    quality = rng.gauss(5, 2)
    graders = [("judge-a", "llm_judge", ""), ("judge-b", "llm_judge", "")]
    graders.append(("judge-c", "llm_judge", "") if number % 10 == 0 else ("human", "human", f"person-{number % 7}"))
    return {
        "external_id": f"{slug}/prompt-{number // 4}/sample-{number % 4}",
        "task": slug,
        "variant": rng.choice(("default", "hints")),
        "model": f"model-{min(int(rng.expovariate(0.5)), 11)}",
        "content": " ".join(rng.choices(words, cum_weights=weights, k=CONTENT_CHARS // 7)),
        "grades": [_grade(rng, quality, *grader) for grader in graders],
    }


def _grade(rng: random.Random, quality: float, grader: str, kind: str, rater: str) -> dict[str, Any]:
    scores = {key: min(10, max(0, round(rng.gauss(quality, 1.5)))) for key in CRITERIA}
    criteria = {key: {"score": score, "rationale": f"On {key}: as the text shows."} for key, score in scores.items()}
    named = {"rater": rater, "mode": "blind"} if rater else {}
    return {"grader": grader, "version": "1", "kind": kind, "criteria": criteria, **named}


def _vocabulary(rng: random.Random) -> tuple[list[str], list[float]]:
    """20,000 made-up words, as often as words are: the nth about 1/n of the first (Zipf)."""
    letters = "etaoinshrdlcumwfgypbvk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(20_000)]
    total, sums = 0.0, []
    for rank in range(len(words)):
        total += 1 / (rank + 3)
        sums.append(total)
    return words, sums
