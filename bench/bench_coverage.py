"""How often do intervals of 95 % hold the truth? 2,000 simulated studies for each estimator, size, rate and judge.

Rates near 0 are drawn evenly from 1 to 10 %, in the middle from 30 to 70 %, near 1 from 90 to 99 %, anew for each study:
at one fixed rate the coverage of any interval jumps with the number of passes that can be. Of 1,000 outputs, n are
labelled. The judge's score follows the quality that decides a pass: not at all (useless), closely but one standard
deviation too generous (biased), or very closely (good).

Printed are each row's worst cell, and how many of its cells lie between 93 and 97. One that holds the truth less often is
"below", or "below by chance" where it is so by less than two standard errors. A cell above 97 is tried in three ways. "As near
as can be" is said where one of them shows that no interval could do with less; "cautious" where none does, and "above by
chance" where it is above by less than two standard errors:
- known length: 1.96 times the true standard error to each side, which no study can know, holds the truth over 97 times
  in 100 too. Mistakes of the judge are few and come one by one, so the estimate is right, or off by a whole step.
- neighbours: were all intervals of that estimator and size shortened until this cell holds the truth 97 times in 100, another
  range or judge would hold it less than 93 times in 100, by more than two standard errors (as where a cell is counted as below),
  or a third of the rates of one would, by more than three.
- rivals: were all intervals of the cell shortened until they held the truth 97 times in 100, and by as much those about a
  judge as close who errs in one direction only (or, with prompts, about outputs of a prompt that are nearly the same),
  these would fall below 93. The labels of a study can't tell the two apart.

A useless judge may make the interval at most 1.05 times as wide as people alone. A good one has to make it as narrow as
theory says, to within 5 %: the root of (1 - r^2) + r^2 n / N, r the correlation of its verdicts with people's, were no error
of the judge unseen; the bar is that theory with the half outputs that `corrected_rate` adds, since a judge that has not erred
in twenty may. A cell that is cautious or below is simulated again with its neighbours, 4,000 studies each and then
20,000 (`coverage_again`). The last lines count the cells: the bar is met where none is below, and none cautious.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import numpy as np

from bench.coverage_again import Look, Said, judged_again, made_again
from bench.coverage_rows import Line, rows_of
from graders.calibration.arrays import Floats
from graders.calibration.inference import corrected_rate, human_rate
from graders.calibration.planning import estimate_from
from graders.calibration.rates import wilson
from graders.calibration.result import Estimate
from graders.calibration.sampling import draw, predicted_error, score_strata
from graders.calibration.weighted import weighted_mean, weighted_rate
from graders.calibration.wilson import wilson_bounds

STUDIES, POPULATION, PROMPT = 2_000, 1_000, 5
SIZES = (20, 50, 200)
RATES = {"near 0": (0.01, 0.1), "middle": (0.3, 0.7), "near 1": (0.9, 0.99)}
JUDGES = {"useless": (0.0, 0.0), "biased": (0.8, 1.0), "good": (0.97, 0.0)}  # correlation with quality, generosity
RIVALS = {"generous": (0.97, 0.4), "harsh": (0.97, -0.4)}  # as close as the good judge, and err one way
LIKENESS, NEARLY_THE_SAME = 0.3, 0.9  # share of the variance of quality that outputs of a prompt have in common
LOWEST, HIGHEST, WIDEST, MORE_THAN_THEORY = 0.93, 0.97, 1.05, 1.05
KNOWN_SE, ALIKE = 1.96, 100  # studies with about one true rate, whose errors give its standard error
THIRDS, FEWEST_IN_THIRD = 3, 100  # of a neighbour, by the truth; studies in each
SURE, SURE_OF_THIRD = 2.0, 3.0  # standard errors below 93, as where a cell is counted as below; of thirds there are many


@dataclass(frozen=True)
class Study:
    """Of N outputs: people's verdict had they graded all, the judge's score (quality scale) and verdict, the prompt."""

    rate: float
    human: Floats
    score: Floats
    verdict: Floats
    prompt: np.ndarray


Estimator = Callable[[Study, int, np.random.Generator], Estimate]
Where = tuple[str, int, str, str]  # estimator, labels, rate, judge


@dataclass(frozen=True)
class Cell:
    """Of each study: how far the estimate is off, that as a share of the interval's arm on that side, its width, the truth."""

    error: Floats
    reach: Floats
    width: Floats
    truth: Floats

    @property
    def held(self) -> float:
        return float((self.reach <= 1).mean())


def make_study(rate: float, judge: str, rng: np.random.Generator, *, clustered: bool, likeness: float = LIKENESS) -> Study:
    from scipy.special import ndtri  # noqa: PLC0415 - 0.4 s to import

    closeness, generosity = (JUDGES | RIVALS)[judge]
    prompt = np.arange(POPULATION) // PROMPT
    quality = rng.standard_normal(POPULATION)
    if clustered:
        quality = alike(quality, rng.standard_normal(POPULATION // PROMPT)[prompt], likeness)
    cut = -float(ndtri(rate))
    score = closeness * quality + np.sqrt(1 - closeness**2) * rng.standard_normal(POPULATION) + generosity
    return Study(rate, (quality > cut).astype(float), score, (score > cut).astype(float), prompt)


def alike(own: Floats, of_prompt: Floats, likeness: float = LIKENESS) -> Floats:
    """What outputs have of their own and of their prompt, so that those of one prompt correlate by `likeness`."""
    return np.sqrt(likeness) * of_prompt + np.sqrt(1 - likeness) * own


def _even(study: Study, n: int, rng: np.random.Generator) -> Estimate:
    return corrected_rate(study.verdict[n:], study.verdict[:n], study.human[:n], labelled_in_all=False)


def _people(study: Study, n: int, rng: np.random.Generator) -> Estimate:
    return wilson(int(study.human[:n].sum()), n)


def _clustered(study: Study, n: int, rng: np.random.Generator) -> Estimate:
    groups = {"clusters_all": study.prompt[n:], "clusters_labelled": study.prompt[:n]}
    return corrected_rate(study.verdict[n:], study.verdict[:n], study.human[:n], **groups, labelled_in_all=False)


def _drawn(policy: str) -> Estimator:
    """Labels drawn by a policy that has learned where people and judge differ from 100 labels of another study."""

    def estimate(study: Study, n: int, rng: np.random.Generator) -> Estimate:
        strata = score_strata(study.score)
        pilot = np.where(rng.random(POPULATION) < 0.1, study.human, np.nan)
        error = predicted_error(study.score, pilot, strata, (0, 1))
        return estimate_from(draw(policy, study.score, error, strata, n, rng=rng), study.verdict, study.human, (0, 1))

    return estimate


def _mean(study: Study, n: int, rng: np.random.Generator) -> Estimate:
    """The mean of scores that are 1 at a pass and spread between 0 and .5 else; its truth is rate + (1 - rate) / 4."""
    score = np.where(study.human == 1, 1.0, rng.random(POPULATION) / 2)
    human = np.where(np.arange(POPULATION) < n, score, np.nan)
    return weighted_mean(study.verdict, human, (0, 1))


def _weighted_even(study: Study, n: int, rng: np.random.Generator) -> Estimate:
    return weighted_rate(study.verdict, np.where(np.arange(POPULATION) < n, study.human, np.nan))


ESTIMATORS: dict[str, Estimator] = {
    "people alone (Wilson)": _people,
    "corrected rate": _even,
    "corrected rate, prompts of 5": _clustered,
    "corrected rate, stratified": _drawn("stratified"),
    "corrected rate, active": _drawn("active"),
    "corrected mean": _mean,
}


def coverage(name: str, n: int, rate: str, judge: str, *, studies: int = STUDIES, seed: int = 0) -> tuple[float, float]:
    """How often the estimator's interval holds the truth, and its mean width."""
    cell = simulate(name, n, rate, judge, studies=studies, seed=seed)
    return cell.held, float(cell.width.mean())


def simulate(name: str, n: int, rate: str, judge: str, *, studies: int, seed: int = 0, likeness: float = LIKENESS) -> Cell:
    rng = np.random.default_rng([seed, n, len(name), len(rate), len(judge)])

    def study_at(truth: float) -> Study:
        return make_study(truth, judge, rng, clustered="prompts" in name, likeness=likeness)

    return cell_of(name, n, rng.uniform(*RATES[rate], studies), study_at, rng)


def cell_of(name: str, n: int, rates: Floats, study_at: Callable[[float], Study], rng: np.random.Generator) -> Cell:
    """Estimate from n labels of a study at each of the rates."""
    found = np.empty((4, len(rates)))
    for i, truth in enumerate(rates.tolist()):
        made = ESTIMATORS[name](study_at(truth), n, rng)
        target = truth + (1 - truth) / 4 if name == "corrected mean" else truth
        off = target - made.value
        arm = made.high - made.value if off > 0 else made.value - made.low
        found[:, i] = off, 0.0 if off == 0 else abs(off) / max(arm, 1e-12), made.high - made.low, target
    return Cell(*found)


def known_length(cell: Cell) -> float:
    """How often the truth lies within 1.96 true standard errors of the estimate."""
    order = np.argsort(cell.truth)
    groups = np.array_split(cell.error[order], max(len(order) // ALIKE, 1))
    return float(np.mean(np.concatenate([np.abs(g) <= KNOWN_SE * np.sqrt((g**2).mean()) for g in groups])))


def is_above_by_chance(held: float, studies: int) -> bool:
    """Whether 97 in 100 lies within two standard errors: of 2,000 studies, over which the bar is, where there are more."""
    return held - 2 * (HIGHEST * (1 - HIGHEST) / min(studies, STUDIES)) ** 0.5 <= HIGHEST


def shortened(cell: Cell) -> float:
    """How many times as long the cell's intervals would be to hold the truth 97 times in 100."""
    return float(np.quantile(cell.reach, HIGHEST, method="inverted_cdf"))


def least_rival(cell: Cell, where: Where, studies: int, seed: int) -> float:
    """How often the worst rival's interval would hold, shortened by what brings this cell down to 97 in 100."""
    name, n, rate, judge = where
    rivals = [simulate(name, n, rate, rival, studies=studies, seed=seed) for rival in RIVALS] if judge != "useless" else []
    if "prompts" in name:
        rivals.append(simulate(name, n, rate, judge, studies=studies, seed=seed, likeness=NEARLY_THE_SAME))
    return min((float((rival.reach <= shortened(cell)).mean()) for rival in rivals), default=1.0)


Part = tuple[Floats, bool]  # the reach of some studies, and whether they are a third of a cell's


def parts_of(reach: Floats, truth: Floats) -> list[Part]:
    """The whole of a cell, and where it has enough studies its thirds by the truth."""
    thirds = np.array_split(np.argsort(truth), THIRDS) if len(truth) >= THIRDS * FEWEST_IN_THIRD else []
    return [(reach, False), *((reach[third], True) for third in thirds)]


def worst_of(parts: Sequence[Part], times: float) -> tuple[int, float, bool]:
    """Of neighbours whose intervals are so many times as long: which is worst, its share, and whether that is surely below 93."""
    shares = [float((reach <= times).mean()) for reach, _ in parts]
    below = [
        (LOWEST - share) / (LOWEST * (1 - LOWEST) / len(reach)) ** 0.5 - (SURE_OF_THIRD if is_third else SURE)
        for share, (reach, is_third) in zip(shares, parts, strict=True)
    ]
    worst = max(range(len(below)), key=below.__getitem__)
    return worst, shares[worst], below[worst] > 0


def verdict(cell: Cell, where: Where, others: Sequence[Cell], studies: int, seed: int = 0) -> Said:
    """What is said of a cell, beside the others of its estimator and size."""
    if cell.held < LOWEST:
        error = float(np.sqrt(LOWEST * (1 - LOWEST) / studies))
        return Said(cell.held, "below" if cell.held + 2 * error < LOWEST else "below by chance", "")
    if cell.held <= HIGHEST:
        return Said(cell.held, "within", "")
    if (known := known_length(cell)) > HIGHEST:
        return Said(cell.held, "as near as can be", f"known length {100 * known:.1f}")
    _, *own = parts_of(cell.reach, cell.truth)  # the cell itself is no neighbour
    neighbours = [*own, *(part for other in others for part in parts_of(other.reach, other.truth))]
    _, neighbour, is_below = worst_of(neighbours, shortened(cell)) if neighbours else (0, 1.0, False)
    if is_below:
        return Said(cell.held, "as near as can be", f"neighbour shortened {100 * neighbour:.1f}")
    rival = least_rival(cell, where, studies, seed)
    shown = f"known length {100 * known:.1f}, shortened neighbour {100 * neighbour:.1f}, rival {100 * rival:.1f}"
    word = "above by chance" if is_above_by_chance(cell.held, studies) else "cautious"
    return Said(cell.held, "as near as can be" if rival < LOWEST else word, shown)


def run(n: int, studies: int = STUDIES) -> list[dict[str, Any]]:
    """The sizes are those of the requirement: n, the outputs of the workspace, does not matter."""
    return [*_widths(studies), *_coverages(studies)]


def simulate_at(where: Where, studies: int, seed: int = 0, only: Collection[str] = ()) -> dict[str, Cell]:
    """The cell by the name of its estimator, as `coverage_again` has it."""
    return {where[0]: simulate(*where, studies=studies, seed=seed)}


def verdicts(pool: Executor, made: dict[Where, Cell], wheres: Sequence[Where], studies: int, seed: int = 0) -> dict[Where, Said]:
    """What is said of some of the cells, with what was made of all."""
    others = [[made[other] for other in made if other[:2] == where[:2] and other != where] for where in wheres]
    cells = [made[where] for where in wheres]
    said = pool.map(verdict, cells, wheres, others, [studies] * len(wheres), [seed] * len(wheres))
    return dict(zip(wheres, said, strict=True))


def _coverages(studies: int) -> Iterator[dict[str, Any]]:
    cells = [
        (name, size, rate, judge)
        for name, size in product(ESTIMATORS, SIZES)
        for rate, judge in product(RATES, ("useless",) if name.startswith("people") else JUDGES)
    ]
    with ProcessPoolExecutor(2) as pool:

        def cells_of(found: Mapping[Where, Mapping[str, Cell]]) -> dict[Where, Cell]:
            return {where: mine[where[0]] for where, mine in found.items()}

        def again(doubtful: list[Where], look: Look) -> dict[Where, Said]:
            near = {where: (where[0],) for where in cells if any(where[:2] == other[:2] for other in doubtful)}
            of_each = look.studies // len(JUDGES)
            made = cells_of(made_again(pool, simulate_at, near, of_each, look.seed))
            return verdicts(pool, made, doubtful, of_each, look.seed)

        made = cells_of(dict(zip(cells, pool.map(simulate_at, cells, [studies] * len(cells)), strict=True)))
        said = judged_again(verdicts(pool, made, cells, studies), again)
    yield from rows_of(_figures(said), "rates")


def _figures(said: dict[Where, Said]) -> Iterator[tuple[str, list[Line]]]:
    for (name, size), mine in groupby(said, key=lambda where: where[:2]):
        yield f"{name}, n {size}", [(f"{rate}, {judge}", said[name, size, rate, judge], "") for _, _, rate, judge in mine]


def _widths(studies: int) -> Iterator[dict[str, Any]]:
    """The interval of the corrected rate over that of people alone."""
    some, unit = max(studies // 10, 20), "% of people's"
    for name, size in product(("corrected rate", "corrected rate, prompts of 5"), SIZES):
        rng = np.random.default_rng(size)
        ratios = [_with_useless_judge(name, size, rate, rng) for rate in RATES for _ in range(some)]
        for word, value in (("mean", np.mean(ratios)), ("widest", max(ratios))):
            label = f"width with a useless judge, {word}: {name}, n {size}"
            yield {"name": label, "value": 100 * float(value), "unit": unit, "bar": 100 * WIDEST}
    for size in SIZES:
        rng, label = np.random.default_rng(size), "width with a good judge"
        found = 100 * np.mean([_with_good_judge(size, rng) for _ in range(some)], axis=0)
        bar = round(MORE_THAN_THEORY * float(found[2]), 1)
        yield {"name": f"{label}, n {size}", "value": float(found[0]), "unit": unit, "bar": bar}
        for word, value in zip(("theory", "theory with half outputs"), found[1:].tolist(), strict=True):
            yield {"name": f"{label}, n {size}: {word}", "value": value, "unit": unit}


def _with_useless_judge(name: str, n: int, rate: str, rng: np.random.Generator) -> float:
    study = make_study(rng.uniform(*RATES[rate]), "useless", rng, clustered="prompts" in name)
    alone = human_rate(study.human[:n], clusters=study.prompt[:n] if "prompts" in name else None)
    made = ESTIMATORS[name](study, n, rng)
    return (made.high - made.low) / (alone.high - alone.low)


def _with_good_judge(n: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """The width at a rate of a half, what theory says of it, and what it says with half an output added to each pair of verdicts."""
    study = make_study(0.5, "good", rng, clustered=False)
    with_judge, alone = _even(study, n, rng), _people(study, n, rng)
    r2, rest = float(np.corrcoef(study.human, study.verdict)[0, 1] ** 2), POPULATION - n
    weight = r2**0.5 * float(study.human.std() / study.verdict.std()) / (1 + n / rest)

    def variance(weight: float) -> float:
        residual, added = study.human - weight * study.verdict, np.array([0.0, 1.0, -weight, 1.0 - weight])
        squares = n * residual.var() + ((added - residual.mean()) ** 2).sum() / 2
        return float(squares / (n + 2) / n + weight**2 * study.verdict.var() / rest)

    ends = [wilson_bounds(0.5, size, 0.95) for size in (n * variance(0.0) / variance(weight), n)]
    allowing = (ends[0][1] - ends[0][0]) / (ends[1][1] - ends[1][0])
    return (with_judge.high - with_judge.low) / (alone.high - alone.low), (1 - r2 + r2 * n / POPULATION) ** 0.5, allowing
