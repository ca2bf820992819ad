"""How often do the intervals of the calibration page's figures hold the truth? 2,000 simulated studies, a third by each judge.

Three people of unlike severity and a judge score n outputs from 1 to 5; 4 is a pass. Rates of a pass and judges are those of
`bench_coverage`: near 0, in the middle, near 1; useless, biased, good. Outputs are independent, or come in prompts of five in
which quality and the judge's error are alike (and n = 20 is four prompts). The true value of each figure is that of 100,000
outputs, at five rates of each range, with a curve through them.

A cell is a figure, size, range and layout: 2,000 studies, 666 with each judge. It is left out where fewer than one study in
fifty has an interval. "Held" is the share of the intervals there are that hold the truth; how many studies have one is printed
beside it. Chance moves it by half a point: a cell under 93 is "below" where that is more than two standard errors, and so is
the part of one judge, counted on its own. A cell above 97 is tried as in `bench_coverage`. "As near as can be" is said where
- known length: 1.96 times the true standard error to each side of the figure, which no study can know, holds the truth over 97
  times in 100 too, as figures of few values do, or
- neighbours: were all intervals of that figure, size and layout shortened until this cell holds the truth 97 times in 100,
  those at another range, or of one judge (a fair one, that follows quality halfway, among them), would hold it less than 93
  times in 100, by more than two standard errors (as where a cell is counted as below), or a third of these by the truth would,
  by more than three. The labels of a study can't tell these apart. In the second look studies with skewed qualities and errors
  of the judge, as in `bench_coverage_laws`, are neighbours too.
- known sizes, of drift: the shortest interval that holds the truth 93 times in 100 whatever sizes the changes have, which one
  who knows that they are as likely up as down could give, holds it over 97 times in 100.
Of the others, those within two standard errors of 97 (of 2,000 studies, over which the bar is) are "above by chance", the rest
"cautious". A cell that is cautious or below is simulated again with its neighbours, 12,000 studies and then 60,000
(`coverage_again`). The last lines count the cells: the bar is met where none is below, and none cautious.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, product
from typing import Any

import numpy as np

from bench.bench_coverage import (
    HIGHEST,
    JUDGES,
    LOWEST,
    PROMPT,
    RATES,
    SIZES,
    STUDIES,
    alike,
    is_above_by_chance,
    known_length,
    parts_of,
    worst_of,
)
from bench.bench_coverage import Cell as Errors
from bench.coverage_again import Look, Said, judged_again, made_again, together
from bench.coverage_rows import Line, rows_of
from graders.calibration import agreement, alpha, comparison, decision, errors, icc, probes, rank, reliability
from graders.calibration.alt_test import alternative_annotator_test
from graders.calibration.arrays import Floats, Ints
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate

DIFFERENCES = ("mae", "abs_bias", "weighted_kappa", "spearman", "kendall_b", "pearson")
LABELS = (1.0, 2.0, 3.0, 4.0, 5.0)
CUTS = np.array([-1.4, -0.7, 0.0, 0.7])  # between the scores, around that of a pass
SEVERITY, CLOSENESS = np.array([-0.2, 0.0, 0.2]), 0.85  # of people
OTHER = (0.9, 0.3)  # a second judge: correlation with quality, generosity
POPULATION, GRID = 100_000, 5
FEWEST_WITH, ROUNDING = 0.02, 1e-9
# Closeness to quality and generosity, as in JUDGES, of judges that are neighbours alone; the latter's studies are skewed.
FAIR = {"fair": (0.5, 0.0)}
SKEWED = {f"{judge}, skewed": how for judge, how in JUDGES.items()}
BESIDE = FAIR | SKEWED
MANY = 1_000_000

Found = dict[str, Estimate]
Figures = dict[str, Callable[[], Estimate]]
Where = tuple[int, str, str, bool]  # labels, rate, judge, prompts of five
Group = tuple[int, str, bool]  # the same without the judge
Made = dict[Where, dict[str, "Tried"]]
Key = tuple[str, Group]
AT_ONCE = 222  # studies made from one seed: a run can be made in pieces


@dataclass(frozen=True)
class Study:
    """Scores of the judge, of another, of the judge a second time (n,), and of people (n, 3); the prompt; a text's length."""

    judge: Floats
    other: Floats
    again: Floats
    human: Floats
    prompt: Ints
    length: Floats


def make_study(rate: float, judge: str, n: int, rng: np.random.Generator, *, clustered: bool) -> Study:
    from scipy.special import ndtri  # noqa: PLC0415 - 0.4 s to import

    prompt = np.arange(n) // (PROMPT if clustered else 1)
    cuts = CUTS + (skewed_cut(rate, alone=not clustered) if judge in SKEWED else -float(ndtri(rate)))
    some = partial(skewed, rng) if judge in SKEWED else rng.standard_normal

    def made() -> Floats:
        own = some(n)
        return alike(own, some(n)[prompt]) if clustered else own

    def scores(closeness: float, generosity: Floats | float, noise: Floats) -> Floats:
        return np.searchsorted(cuts, closeness * quality + np.sqrt(1 - closeness**2) * noise + generosity) + 1.0

    quality, length, error = made(), rng.standard_normal(n), made()
    closeness, generosity = (JUDGES | BESIDE)[judge]
    human = np.stack([scores(CLOSENESS, severity, rng.standard_normal(n)) for severity in SEVERITY], axis=1)
    once, again = (scores(closeness, generosity + 0.2 * length, (error + rng.standard_normal(n)) / np.sqrt(2)) for _ in range(2))
    return Study(once, scores(*OTHER, made()), again, human, prompt, np.expm1(length + 5))


def skewed(rng: np.random.Generator, n: int) -> Floats:
    """Numbers of which most are a little above their mean, and a few much below: one less an exponential."""
    return 1 - rng.exponential(size=n)


@cache
def _rising() -> Floats:
    rng = np.random.default_rng(0)
    own, of_prompt = (skewed(rng, MANY) for _ in range(2))
    return np.sort(alike(own, of_prompt))


def skewed_cut(rate: float, *, alone: bool) -> float:
    """The skewed quality above which this share of outputs lies, alone or in prompts."""
    return float(np.log(1 - rate) + 1) if alone else float(_rising()[round((1 - rate) * MANY)])


def made_of(figures: Figures, only: Collection[str]) -> Found:
    """All of the figures, or `only` some."""
    return {name: make() for name, make in figures.items() if not only or name in only}


def figures_of_people(study: Study, draws: Resamples | None, only: Collection[str] = ()) -> Found:
    @cache
    def alphas() -> Found:
        return alpha.krippendorff_alphas(study.human, alpha.METRICS, draws, LABELS)

    def severity() -> Estimate:
        if draws is not None:
            return probes.reviewer_severity(study.human, ("a", "b", "c"), study.prompt)["a"]
        of_each = study.human.mean(axis=0)
        return Estimate.missing(f"{of_each[0] - of_each.mean()}")

    figures: Figures = {f"alpha, {metric}": lambda metric=metric: alphas()[metric] for metric in alpha.METRICS}
    figures |= {
        "ICC(1)": lambda: icc.icc1(study.human, draws, LABELS),
        "ICC(2,k)": lambda: icc.icc2k(study.human, draws, LABELS),
        "severity of a reviewer": severity,
    }
    return made_of(figures, only)


def figures_of_judge(study: Study, draws: Resamples | None, only: Collection[str] = ()) -> Found:
    judge, human, mean, rng = study.judge, study.human, study.human.mean(axis=1), np.random.default_rng(0)
    passed, truth = (judge >= 4).astype(float), decision.majority((human >= 4).astype(float))
    n_boot, no_criteria = {} if draws is not None else {"n_boot": 0}, np.zeros(len(judge), dtype=np.int64)
    limits = cache(lambda: errors.limits_of_agreement(judge, mean, draws))
    decided = cache(lambda: decision.decide(passed, truth, draws))
    second = cache(lambda: rank.second_reviewer(judge, human, no_criteria, draws))
    figures: Figures = {
        "weighted kappa": lambda: agreement.weighted_kappa(judge, human, LABELS, rng=rng, resamples=draws, **n_boot),
        "kappa of verdicts": lambda: agreement.weighted_kappa(passed, truth, (0, 1), rng=rng, resamples=draws, **n_boot),
        "alpha of the judge": lambda: alpha.judge_alpha(judge, human, "ordinal", draws, LABELS),
        "AC2": lambda: agreement.gwet_ac2(judge, human, LABELS, draws),
        "Pearson": lambda: rank.pearson(judge, mean, draws),
        "Spearman": lambda: rank.spearman(judge, mean, draws),
        "Kendall": lambda: rank.kendall_b(judge, mean, draws),
        "Spearman within two criteria": lambda: rank.within(rank.spearman, judge, mean, np.arange(len(judge)) % 2, draws),
        "mean absolute error": lambda: errors.mae(judge, mean, draws),
        "bias": lambda: errors.bias(judge, mean, draws),
        "limit of agreement, low": lambda: limits().low,
        "limit of agreement, high": lambda: limits().high,
        "Brier score": lambda: reliability.brier((judge - 1) / 4, truth, draws),
        "calibration error": lambda: reliability.ece((judge - 1) / 4, truth, draws),
        "advantage probability": lambda: alternative_annotator_test(judge, human, "neg_rmse", 0.2, resamples=draws).advantage_probability,
        "points for length": lambda: probes.length_bias(judge, mean, study.length, study.prompt),
        "place of an answer": lambda: probes.position_bias(np.sign(judge - 3), np.sign(human[:, 0] - 3), study.prompt),
        "precision": lambda: decided().precision,
        "recall": lambda: decided().recall,
        "f1": lambda: decided().f1,
        "false pass rate": lambda: decided().false_pass_rate,
        "agreement": lambda: decided().agreement,
        "rank of the judge": lambda: second().judge,
        "rank of a reviewer": lambda: second().people,
        "judge less reviewer": lambda: second().difference,
    }
    return made_of(figures | figures_of_two(study, draws), only)


def figures_of_two(study: Study, draws: Resamples | None) -> Figures:
    """Of two judges, and of one at two times."""
    if draws is None:
        draws = Resamples(np.zeros(len(study.judge), dtype=np.int64), rng=np.random.default_rng(0))  # one prompt: no interval

    @cache
    def compared() -> Found:
        found = comparison.compare_judges(study.judge, study.other, study.human, LABELS, resamples=draws)
        return {d.name: d.difference for d in found.differences}

    figures: Figures = {f"difference in {name.replace('_', ' ')}": lambda name=name: compared()[name] for name in DIFFERENCES}
    return figures | {"drift": lambda: comparison.drift(study.judge, study.again, draws, tolerance=0.1).shift}


StudyAt = Callable[[float, int, np.random.Generator], Study]  # of a rate and a number of outputs


@cache
def truths(rate: str, judge: str, population: int = POPULATION, *, clustered: bool = False) -> dict[str, Callable[[float], float]]:
    """The true value of each figure by the rate of a pass; skewed outputs in prompts have another law than alone."""
    return truths_of(rate, lambda at, n, rng: make_study(at, judge, n, rng, clustered=clustered), population)


def truths_of(rate: str, study_at: StudyAt, population: int) -> dict[str, Callable[[float], float]]:
    rates = np.linspace(*RATES[rate], GRID)
    values: dict[str, list[float]] = {}
    for place, at in enumerate(rates):
        study = study_at(float(at), population, np.random.default_rng(place))
        for name, made in (figures_of_people(study, None) | figures_of_judge(study, None)).items():
            value = float(made.why_missing) if name == "severity of a reviewer" else made.value
            values.setdefault(name, []).append(np.nan if value is None else value)
    return {name: np.polynomial.Polynomial.fit(rates, seen, GRID - 2) for name, seen in values.items()}


@dataclass(frozen=True)
class Cell:
    """In how many studies the figure has an interval, and the share of these that hold the truth."""

    with_interval: float
    held: float
    studies: int

    @property
    def error(self) -> float:
        """The standard error of the share, were it 93 in 100."""
        return float(np.sqrt(LOWEST * (1 - LOWEST) / max(self.with_interval * self.studies, 1)))


@dataclass(frozen=True)
class Tried:
    """Of each study with an interval: how far the figure is off, that as a share of the interval's arm on that side, the truth."""

    error: Floats
    reach: Floats
    truth: Floats
    studies: int

    @property
    def cell(self) -> Cell:
        return Cell(len(self.reach) / self.studies, self.held_by(1.0), self.studies)

    def held_by(self, shortened: float) -> float:
        """The share that hold the truth were all intervals so many times as long."""
        return float((self.reach <= shortened).mean()) if len(self.reach) else 0.0


def simulate(where: Where, studies: int, seed: int = 0, population: int = POPULATION, only: Collection[str] = ()) -> dict[str, Tried]:
    """Each figure's intervals and truths in the studies of one judge; with `only` those of some figures."""
    n, rate, judge, clustered = where
    true = truths(rate, judge, population, clustered=clustered and judge in SKEWED)
    rng = np.random.default_rng([seed, n, len(rate), len(judge), clustered])

    def study_at(at: float, n: int, rng: np.random.Generator) -> Study:
        return make_study(at, judge, n, rng, clustered=clustered)

    return tried_of(true, n, rng.uniform(*RATES[rate], studies), study_at, rng, with_people=judge not in FAIR, only=only)


def tried_of(
    true: dict[str, Callable[[float], float]],
    n: int,
    rates: Floats,
    study_at: StudyAt,
    rng: np.random.Generator,
    *,
    with_people: bool,
    only: Collection[str] = (),
) -> dict[str, Tried]:
    """The same of a study of n outputs at each of the rates."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for at in rates.tolist():
        study = study_at(at, n, rng)
        draws = Resamples(study.prompt, rng=rng)
        found = figures_of_judge(study, draws, only) | (figures_of_people(study, draws, only) if with_people else {})
        for name, made in found.items():
            mine = rows.setdefault(name, [])
            if made.value is not None and made.low is not None and made.high is not None:
                truth = float(true[name](at))
                off = truth - made.value
                arm = made.high - made.value if off > 0 else made.value - made.low
                mine.append((off, 0.0 if abs(off) <= ROUNDING else abs(off) / max(arm + ROUNDING, 1e-12), truth))
    return {name: Tried(*np.array(mine).reshape(-1, 3).T, len(rates)) for name, mine in rows.items()}


def word_of(cell: Cell) -> str:
    if cell.with_interval < FEWEST_WITH:
        return "none"
    if cell.held < LOWEST:
        return "below" if cell.held + 2 * cell.error < LOWEST else "below by chance"
    return "above" if cell.held > HIGHEST else "within"


def tightness(name: str, where: Group, made: Made) -> tuple[str, str]:
    """What is said of a cell above 97: a word, and what shows it."""
    n, rate, clustered = where
    mine = [made[(n, rate, judge, clustered)][name] for judge in JUDGES]
    tried = together(mine)
    of_each = [known_length(Errors(part.error, part.reach, part.reach, part.truth)) for part in mine if len(part.reach)]
    known = float(np.average(of_each, weights=[len(part.reach) for part in mine if len(part.reach)]))
    if known > HIGHEST:
        return "as near as can be", f"known length {100 * known:.1f}"
    if name == "drift" and (by_sizes := np.mean([known_sizes((n, rate, judge, clustered)) for judge in JUDGES])) > HIGHEST:
        return "as near as can be", f"known length {100 * known:.1f}, known sizes {100 * by_sizes:.1f}"
    others = {(at[1], at[2]): found[name] for at, found in made.items() if (at[0], at[3]) == (n, clustered) and name in found}
    word, shown = where_shortened(tried, rate, others)
    return word, f"known length {100 * known:.1f}, {shown}"


def known_sizes(where: Where, studies: int = 5 * STUDIES, seed: int = 1) -> float:
    """How often the shortest interval of a shift holds the truth that would do so 93 times in 100 whatever the changes are.

    The same judge scored the same outputs twice, so that each change is as likely up as down, and with its size known so is the
    law of their sum: a few whole numbers where few outputs have changed. Of studies that have an interval.
    """
    n, rate, judge, clustered = where
    rng, held = np.random.default_rng([seed, n, len(rate), len(judge), clustered]), []
    for at in rng.uniform(*RATES[rate], studies).tolist():
        study = make_study(at, judge, n, rng, clustered=clustered)
        change = (study.again - study.judge).astype(np.int64)
        if np.ptp(np.bincount(study.prompt, change)):
            law, sizes = np.ones(1), np.abs(change[change != 0])
            for size in sizes.tolist():
                law = (np.append(law, np.zeros(2 * size)) + np.append(np.zeros(2 * size), law)) / 2
            shares = np.bincount(np.abs(np.arange(len(law)) - sizes.sum()), law).cumsum()  # within 0, 1, 2 ... points
            held.append(abs(change.sum()) <= np.searchsorted(shares, LOWEST - ROUNDING))
    return float(np.mean(held))


def where_shortened(tried: Tried, rate: str, every: dict[tuple[str, str], Tried]) -> tuple[str, str]:
    """What is said of a cell where neighbours are shortened with it until it is at 97; `every` is that of each range and judge."""
    times = float(np.quantile(tried.reach, HIGHEST, method="inverted_cdf"))
    alike = dict(every)
    for other in dict.fromkeys(other for other, _ in every):
        alike[other, "all"] = together([found for at, found in every.items() if at[0] == other and at[1] not in BESIDE])
    neighbours, names = [], []
    for at, found in alike.items():
        if found.cell.with_interval >= FEWEST_WITH:
            parts = parts_of(found.reach, found.truth)[at == (rate, "all") :]  # the cell itself is no neighbour
            neighbours += parts
            names += [f"{' '.join(at).strip()}{', a third' if is_third else ''}" for _, is_third in parts]
    worst, held, is_below = worst_of(neighbours, times)
    word = "above by chance" if is_above_by_chance(tried.held_by(1.0), len(tried.reach)) else "cautious"
    return "as near as can be" if is_below else word, f"shortened {names[worst]} {100 * held:.1f}"


def _of_one(rate: str, judge: str, studies: int) -> Made:
    """The cells of one range and judge, whose truths are the same."""
    pieces = [min(AT_ONCE, studies - begun) for begun in range(0, studies, AT_ONCE)]
    made: Made = {}
    for n, clustered in product(SIZES, (False, True)):
        parts = [simulate((n, rate, judge, clustered), piece, seed) for seed, piece in enumerate(pieces)]
        made[n, rate, judge, clustered] = {name: together([part[name] for part in parts]) for name in parts[0]}
    return made


def said_of(name: str, where: Group, made: Made) -> Said:
    n, rate, clustered = where
    cell, why = together([made[n, rate, judge, clustered][name] for judge in JUDGES]).cell, ""
    if (word := word_of(cell)) == "above":
        word, why = tightness(name, where, made)
    return Said(cell.held, word, why, cell.with_interval)


def said_again(pool: Executor | None, doubtful: list[Key], look: Look) -> dict[Key, Said]:
    """What is said of these cells of new studies, a third by each judge."""
    wanted: dict[Where, set[str]] = {}
    for name, (n, _, clustered) in doubtful:
        for rate, judge in product(RATES, JUDGES | BESIDE):
            wanted.setdefault((n, rate, judge, clustered), set()).add(name)
    made = made_again(pool, simulate, wanted, -(-look.studies // len(JUDGES)), look.seed)
    return {key: said_of(*key, made) for key in doubtful}


def run(n: int, studies: int = STUDIES) -> list[dict[str, Any]]:
    """The sizes are those of the requirement: n, the outputs of the workspace, does not matter."""
    made: Made = {}
    with ProcessPoolExecutor(2) as pool:
        tasks = list(product(RATES, JUDGES | FAIR))
        for found in pool.map(_of_one, *zip(*tasks, strict=True), [-(-studies // len(JUDGES))] * len(tasks)):
            made |= found
        said = judged_again(said_of_all(made), partial(said_again, pool))
    of_judges = (word_of(found.cell) for where, every in made.items() if where[2] in JUDGES for found in every.values())
    return list(rows_of(_figures(made, said), "figures", of_judges=of_judges))


def said_of_all(made: Made) -> dict[Key, Said]:
    names = dict.fromkeys(name for found in made.values() for name in found)
    return {(name, where): said_of(name, where, made) for name in names for where in product(SIZES, RATES, (False, True))}


def _figures(made: Made, said: dict[Key, Said]) -> Iterator[tuple[str, list[Line]]]:
    for name, mine in groupby(said, key=lambda key: key[0]):
        lines = []
        for key in mine:
            n, rate, clustered = key[1]
            each = " ".join(f"{100 * made[n, rate, judge, clustered][name].cell.held:.1f}" for judge in JUDGES)
            lines.append((f"n {n}, {rate}{', prompts of 5' if clustered else ''}", said[key], f"({each}) "))
        yield name, lines
