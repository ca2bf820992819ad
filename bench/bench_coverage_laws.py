"""Do the intervals hold the truth in studies unlike those by which they were made? Other laws, prompts and seeds.

`bench_coverage` and `bench_coverage_figures` have shown where intervals were too short or too long, and some allowances were
set by them. Their studies have normal qualities and prompts of five. Here prompts have three outputs, twelve, or from one to
ten; and either the chance of a pass differs by prompt as a beta law says (beta-binomial outputs, correlation .2), or qualities
and the judge's errors are exponential: most outputs are a little better than the mean, and a few much worse.

Rates, judges, estimators and figures are those of the two. A cell is an estimator or figure, law, size and range: a third of
its studies with each judge. What lies outside 93 to 97 by less than two standard errors is "by chance". No cell above 97 is
tried for whether a shorter interval could do, so "above" is no miss of the bar.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from bench import bench_coverage as rates
from bench import bench_coverage_figures as figures
from bench.bench_coverage import HIGHEST, JUDGES, LOWEST, RATES
from bench.coverage_rows import counts_of
from graders.calibration.arrays import Floats, Ints

OF_RATES, OF_FIGURES, POPULATION = 2_000, 300, 50_000
CORRELATION = 0.2  # of the passes of two outputs of a prompt
SEED = 77
Where = tuple[str, str, int, str]  # rates or figures, law, labels, rate
WORDS = ("within", "above by chance", "below by chance", "above", "below", "none")


@dataclass(frozen=True)
class Law:
    """Sizes of prompts, in turn; whether chances of a pass are beta, and qualities and errors exponential, or neither."""

    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    is_beta: bool


LAWS = {
    "alone, exponential": Law((1,), (20, 50, 200), is_beta=False),
    "prompts of 3, beta-binomial": Law((3,), (21, 51, 201), is_beta=True),
    "prompts of 12, exponential": Law((12,), (60, 204), is_beta=False),
    "prompts of 1 to 10, beta-binomial": Law((4, 10, 1, 7, 2, 8, 3, 9, 6, 5), (22, 55, 200), is_beta=True),
}


@dataclass(frozen=True)
class Outputs:
    """Quality (n,), noise like it, the prompt, and where a pass begins."""

    quality: Floats
    noise: Callable[[], Floats]
    prompt: Ints
    cut: float


def outputs(law: Law, rate: float, n: int, rng: np.random.Generator) -> Outputs:
    from scipy.special import ndtri  # noqa: PLC0415 - 0.4 s to import

    of_each = np.tile(law.sizes, n // sum(law.sizes) + 1)
    prompt = np.repeat(np.arange(len(of_each)), of_each)[:n]
    if law.is_beta:
        many = 1 / CORRELATION - 1
        chance = np.clip(rng.beta(rate * many, (1 - rate) * many, len(of_each)), 1e-9, 1 - 1e-9)
        cut = -float(ndtri(rate))
        return Outputs(ndtri(chance)[prompt] + cut + rng.standard_normal(n), lambda: rng.standard_normal(n), prompt, cut)

    def skewed() -> Floats:
        own, of_prompt = figures.skewed(rng, n), figures.skewed(rng, len(of_each))
        return rates.alike(own, of_prompt[prompt]) if sum(law.sizes) > 1 else own

    return Outputs(skewed(), skewed, prompt, figures.skewed_cut(rate, alone=sum(law.sizes) == 1))


def study_of_rates(law: Law, rate: float, judge: str, rng: np.random.Generator) -> rates.Study:
    made, (closeness, generosity) = outputs(law, rate, rates.POPULATION, rng), JUDGES[judge]
    score = closeness * made.quality + np.sqrt(1 - closeness**2) * made.noise() + generosity
    return rates.Study(rate, (made.quality > made.cut).astype(float), score, (score > made.cut).astype(float), made.prompt)


def study_of_figures(law: Law, rate: float, judge: str, n: int, rng: np.random.Generator) -> figures.Study:
    made, length, cuts = outputs(law, rate, n, rng), rng.standard_normal(n), figures.CUTS
    error = made.noise()

    def scores(closeness: float, generosity: Floats | float, noise: Floats) -> Floats:
        said = closeness * made.quality + np.sqrt(1 - closeness**2) * noise + generosity
        return np.searchsorted(cuts + made.cut, said) + 1.0

    closeness, generosity = JUDGES[judge]
    human = np.stack([scores(figures.CLOSENESS, severity, rng.standard_normal(n)) for severity in figures.SEVERITY], axis=1)
    judged = [scores(closeness, generosity + 0.2 * length, (error + rng.standard_normal(n)) / np.sqrt(2)) for _ in range(2)]
    return figures.Study(judged[0], scores(*figures.OTHER, made.noise()), judged[1], human, made.prompt, np.expm1(length + 5))


def simulate_rates(where: Where, studies: int) -> dict[str, tuple[int, int, int]]:
    """For each estimator: studies, those with an interval, those that hold the truth."""
    _, name, n, rate = where
    law, found = LAWS[name], {}
    fitting = [e for e in rates.ESTIMATORS if ("prompts" in e) == (sum(law.sizes) > 1)]
    for estimator in fitting:
        held = 0
        for judge in JUDGES:
            rng = np.random.default_rng([SEED, n, len(name), len(rate), len(judge), len(estimator)])
            at = rng.uniform(*RATES[rate], -(-studies // len(JUDGES)))
            cell = rates.cell_of(estimator, n, at, lambda r, judge=judge, rng=rng: study_of_rates(law, r, judge, rng), rng)
            held += int((cell.reach <= 1).sum())
        studies_of_all = len(at) * len(JUDGES)
        found[estimator.replace(", prompts of 5", " by prompt")] = (studies_of_all, studies_of_all, held)
    return found


def simulate_figures(where: Where, studies: int, population: int) -> dict[str, tuple[int, int, int]]:
    """The same for each figure."""
    _, name, n, rate = where
    law, found = LAWS[name], Counter()
    for judge in JUDGES:

        def study_at(at: float, n: int, rng: np.random.Generator, judge: str = judge) -> figures.Study:
            return study_of_figures(law, at, judge, n, rng)

        rng = np.random.default_rng([SEED, n, len(name), len(rate), len(judge)])
        at = rng.uniform(*RATES[rate], -(-studies // len(JUDGES)))
        true = _truths(name, rate, judge, population)
        for figure, tried in figures.tried_of(true, n, at, study_at, rng, with_people=True).items():
            found[figure, 0] += tried.studies
            found[figure, 1] += len(tried.reach)
            found[figure, 2] += int((tried.reach <= 1).sum())
    return {figure: (found[figure, 0], found[figure, 1], found[figure, 2]) for figure, part in found if not part}


@cache
def _truths(name: str, rate: str, judge: str, population: int) -> dict[str, Callable[[float], float]]:
    return figures.truths_of(rate, lambda at, n, rng: study_of_figures(LAWS[name], at, judge, n, rng), population)


def simulate(where: Where, studies: int = 0, population: int = POPULATION) -> dict[str, tuple[int, int, int]]:
    if where[0] == "rates":
        return simulate_rates(where, studies or OF_RATES)
    return simulate_figures(where, studies or OF_FIGURES, population)


def word_of(studies: int, with_interval: int, held: int) -> str:
    if with_interval < figures.FEWEST_WITH * studies:
        return "none"
    share = held / with_interval
    for bound, way in ((LOWEST, "below"), (HIGHEST, "above")):
        if (share < bound) if way == "below" else (share > bound):
            by_chance = abs(share - bound) <= 2 * (bound * (1 - bound) / with_interval) ** 0.5
            return f"{way} by chance" if by_chance else way
    return "within"


def run(n: int, studies: int = 0) -> list[dict[str, Any]]:
    """The sizes are those above: n, the outputs of the workspace, does not matter. `studies` of a cell, 2,000 and 300 for 0."""
    cells = [(kind, law, size, rate) for kind, law in product(("rates", "figures"), LAWS) for size in LAWS[law].labels for rate in RATES]
    with ProcessPoolExecutor(2) as pool:
        return list(rows_of(dict(zip(cells, pool.map(simulate, cells, [studies] * len(cells)), strict=True))))


def rows_of(made: dict[Where, dict[str, tuple[int, int, int]]]) -> Iterator[dict[str, Any]]:
    for kind in ("rates", "figures"):
        counted: Counter[str] = Counter()
        for law in LAWS:
            of_law, lowest = Counter[str](), (1.0, "")
            for where, found in made.items():
                if where[:2] != (kind, law):
                    continue
                for name, (studies, there, held) in found.items():
                    word, share = word_of(studies, there, held), held / max(there, 1)
                    label = f"{name}, n {where[2]}, {where[3]}"
                    print(f"    {law}: {label}: {100 * share:.1f} {word}, {100 * there / studies:.0f} with", file=sys.stderr, flush=True)
                    of_law[word] += 1
                    if word != "none":
                        lowest = min(lowest, (share, label))
            counted += of_law
            rest = ", ".join(f"{of_law[word]} {word}" for word in WORDS[1:] if of_law[word])
            yield {"name": f"{kind}, {law}: cells within", "value": of_law["within"], "unit": f"of {of_law.total()}; {rest}"}
            yield {"name": f"{kind}, {law}, lowest ({lowest[1]})", "value": 100 * lowest[0], "unit": "%"}
        yield from counts_of(counted, f"{kind} by other laws", missed=("below",))
