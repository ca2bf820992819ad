"""How many labels does a pass rate take, by each policy, on published data where people graded everything?

People's verdicts are hidden and a policy draws outputs to label; the pass rate is estimated from these labels and the
judge's verdicts on all. Needed is the number at which the interval is on average 0.05 to each side. With a pilot, the
policy learns where people and judge differ from 50 labels drawn at random, which count and are used too. Outputs of a prompt
(SummEval's 16 summaries of an article) are taken together, as everywhere. Each number is set against that of random labels
without a judge. Also printed: how often the intervals hold the rate of all labels.

Needs the shared data (TOUCHSTONE_SHARED names its folder); without it there is nothing to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graders.calibration.arrays import Floats, Ints, cluster_numbers
from graders.calibration.planning import estimate_from
from graders.calibration.sampling import combined_weights, draw, predicted_error, random_sample, score_strata
from graders.calibration.weighted import weighted_rate

SHARED = Path(os.environ.get("TOUCHSTONE_SHARED") or Path(__file__).resolve().parents[2] / "shared")
DATA = SHARED / "data" / "alttest"
PILOT, STUDIES, HALF_WIDTH = 50, 100, 0.05
POLICIES = ("random", "stratified", "stratified, pilot", "active, pilot")


def run(n: int) -> list[dict[str, Any]]:
    """The sizes are those of the data: n, the outputs of the workspace, does not matter."""
    if not DATA.is_dir():
        print(f"  {DATA} is not there: nothing to run")
        return []
    return [row for name, data in _studies() for row in _rows(name, data)]


class Data(NamedTuple):
    """Of each output the judge's score, people's verdict and the prompt (N,)."""

    judge: Floats
    human: Floats
    prompt: Ints


def _studies() -> Iterator[tuple[str, Data]]:
    """The name and the data: a pass is 4 of 5 or more, by the judge and by the mean person."""
    for data, aspects in (("summeval", ("coherence", "relevance")), ("cebab_stars", ("",))):
        people = json.loads((DATA / data / "human_annotations.json").read_text())
        judges = json.loads((DATA / data / "llm_annotations.json").read_text())
        name = next((j for j in sorted(judges) if "gpt-4o" in j and "mini" not in j), sorted(judges)[0])
        for aspect in aspects:
            keys = [key for key in judges[name] if key.endswith(aspect) and any(key in given for given in people.values())]
            mean = [np.mean([float(given[key]) for given in people.values() if key in given]) for key in keys]
            scores = np.array([float(judges[name][key]) for key in keys])
            prompts = cluster_numbers("prompts", [key.split("__")[0] for key in keys], len(keys))
            yield f"{data} {aspect}".strip(), Data(scores, (np.array(mean) >= 4).astype(float), prompts)


def _rows(name: str, data: Data) -> list[dict[str, Any]]:
    alone, _ = _needed(data, "random", with_judge=False)
    found = []
    for policy in POLICIES:
        needed, coverage = _needed(data, policy, with_judge=True)
        if needed is not None:
            row = {"name": f"{name}, {policy} (covers {coverage:.3f})", "value": needed, "unit": "labels"}
            found.append(row | {"baseline": "random, no judge", "baseline_value": alone})
    return found


def _needed(data: Data, policy: str, *, with_judge: bool) -> tuple[int | None, float]:
    """Labels until the half width is reached, and how often the last intervals held the truth."""
    rng, sizes = np.random.default_rng(0), np.unique(np.geomspace(40, len(data.judge) * 0.9, 14).astype(int))
    before: tuple[int, float] | None = None
    for size in sizes.tolist():
        made = [_study(data, policy, size, rng, with_judge=with_judge) for _ in range(STUDIES)]
        width = float(np.mean([(high - low) / 2 for low, high in made]))
        if width <= HALF_WIDTH:
            share = 1.0 if before is None else (1 / HALF_WIDTH**2 - 1 / before[1] ** 2) / (1 / width**2 - 1 / before[1] ** 2)
            reached = size if before is None else before[0] + share * (size - before[0])
            return round(reached), float(np.mean([low <= data.human.mean() <= high for low, high in made]))
        before = (size, width)
    return None, 0.0


def _study(data: Data, policy: str, size: int, rng: np.random.Generator, *, with_judge: bool) -> tuple[float, float]:
    judge, human, prompt = data
    verdicts = (judge >= 4).astype(float) if with_judge else np.full(len(judge), np.nan)
    strata, name = score_strata(judge), policy.split(",", maxsplit=1)[0]
    if not policy.endswith("pilot"):
        alike = np.ones(len(judge))
        found = estimate_from(draw(name, judge, alike, strata, size, rng=rng), verdicts, human, (0, 1), prompt)
        return found.low, found.high
    pilot = random_sample(len(human), PILOT, rng=rng)
    error = predicted_error(judge, _labels(human, pilot.indices), strata, (0, 1))
    sample = draw(name, judge, error, strata, max(size - PILOT, 1), rng=rng)
    parts = [(one.indices, one.probabilities[one.indices]) for one in (pilot, sample)]
    labels = _labels(human, np.concatenate([pilot.indices, sample.indices]))
    found = weighted_rate(verdicts, labels, combined_weights(parts, len(human)), clusters=prompt)
    return found.low, found.high


def _labels(human: Floats, places: Ints) -> Floats:
    labels = np.full(len(human), np.nan)
    labels[places] = human[places]
    return labels
