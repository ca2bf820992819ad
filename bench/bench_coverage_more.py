"""How often do the other intervals hold the truth? 2,000 simulated studies for each, a third by each judge.

What `bench_coverage` and `bench_coverage_figures` leave out, with their studies, rates and judges:

- the mean human score, what moves a judge (its own family, formatting, words to it), the bias of a group, the bins of the
  reliability diagram, Clopper-Pearson's rate;
- a calibrator: the judge's errors before and after it, and the interval of one prediction. The truth after it is what the map
  that the study shows would do on 5,000 new outputs; of one prediction, "held" is the share of these in their intervals;
- pass@k of prompts with ten outputs each;
- strengths of four players from comparisons in pairs, a fifth of them ties;
- labels drawn by a queue (random, stratified, active) from 1,000 outputs: errors, decisions, rates, means, agreement and
  ranking weighted by one over the probability of being drawn. 100 labels of a first look tell the policy where people and
  judge differ;
- "label k more": how near the interval after k more labels comes to what was foretold.

Cells and words are those of `bench_coverage_figures`, and so is the second look at those in doubt (`coverage_again`), in which
a fair judge is a neighbour too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, product
from typing import Any
from zlib import crc32

import numpy as np

from bench.bench_coverage import (
    HIGHEST,
    JUDGES,
    LIKENESS,
    PROMPT,
    RATES,
    SIZES,
    STUDIES,
    known_length,
)
from bench.bench_coverage import Cell as Errors
from bench.bench_coverage_figures import (
    FAIR,
    GRID,
    LABELS,
    ROUNDING,
    Cell,
    Figures,
    Study,
    Tried,
    made_of,
    make_study,
    where_shortened,
    word_of,
)
from bench.coverage_again import Look, Said, judged_again, made_again, together
from bench.coverage_drawn import PASS, SCALE, SPAN, figures_by_chance, figures_of_draw
from bench.coverage_rows import Line, rows_of
from graders.calibration import errors, probes
from graders.calibration.arrays import Floats, Ints
from graders.calibration.decision import majority
from graders.calibration.means import mean_score
from graders.calibration.passes import clopper_pearson, pass_at_k
from graders.calibration.planning import estimate_from, plan_labels
from graders.calibration.ranking import bradley_terry
from graders.calibration.recalibration import pass_chance, recalibrate
from graders.calibration.reliability import reliability_bins
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from graders.calibration.sampling import Sample, draw, predicted_error, score_strata

POPULATION, DRAWN_FROM, NEW = 100_000, 1_000, 5_000
ONE, LEVEL = "one prediction", 0.95
ALONE, PROMPTS = "", "prompts of 5"
EXACT = "rate (Clopper-Pearson)"  # made to hold the truth at least 95 times in 100 at every rate: it is held to that
POLICIES = ("random", "stratified", "active")
TRIES, KS = 10, (1, 5, 10)
PLAYERS, TIES = ("a", "b", "c", "d"), 0.2
STRENGTHS = {"near each other": np.array([0.5, 0.2, -0.2, -0.5]), "far apart": np.array([2.0, 0.7, -0.7, -2.0])}
OF_MAP = {"error before", "error after", "bias before", "bias after", "log-loss before", "log-loss after", ONE}
PILOT, SIMULATIONS, PLANS = 0.1, 20, 60  # of label plans there are one study in so many

Where = tuple[str, int, str, str, str]  # group, labels, rate, judge, how they come
Key = tuple[str, str, int, str, str]  # figure, group, labels, rate, how they come
Truths = dict[str, Callable[[float], float]]  # by the rate of a pass
# With the truth; None: that of `truths`; of one prediction, the shares of `Shares`.
Found = dict[str, tuple[Estimate, float | tuple[float, float] | Callable[[Truths, float], float] | None]]


def figures_of_people_and_judge(study: Study, draws: Resamples, only: Collection[str] = ()) -> dict[str, Estimate]:
    judge, mean, prompt = study.judge, study.human.mean(axis=1), study.prompt
    passed = majority((study.human >= PASS).astype(float))
    length = np.log1p(study.length) - 5
    own, marked, flagged = (length > 0.5).astype(float), np.expm1(np.maximum(length, 0)), (length > 1.28).astype(float)
    longest = np.searchsorted((-0.5, 0.5), length)
    figures: Figures = {
        "mean human score": lambda: mean_score(study.human, draws, SCALE),
        "points for its own family": lambda: probes.self_preference(judge, mean, own, prompt),
        "points for formatting": lambda: probes.formatting_bias(judge, mean, marked, prompt),
        "points for words to the judge": lambda: probes.injection_bias(judge, mean, flagged, prompt),
        "bias of a group": lambda: errors.bias_by(judge, mean, longest, 3, draws)[2],
        EXACT: lambda: clopper_pearson(int(passed.sum()), len(passed)),
    }
    return made_of(figures, only)


def figures_of_map(study: Study, new: Study, draws: Resamples, rng: np.random.Generator) -> Found:
    """A calibrator, and what it does on new outputs."""
    mean, passed, unseen = study.human.mean(axis=1), majority((study.human >= PASS).astype(float)), new.human.mean(axis=1)
    made = recalibrate(study.judge, mean, passed, SCALE, study.prompt, rng=rng, resamples=draws)
    if made.calibrator is None:
        return {}
    new_passed = majority((new.human >= PASS).astype(float))
    after, chances = made.calibrator.predict(new.judge) - unseen, pass_chance(study.judge, passed)
    off = np.abs(after)
    found: Found = {
        "error before": (made.mae_before, float(np.abs(new.judge - unseen).mean())),
        "error after": (made.mae_after, float(off.mean())),
        "bias before": (made.bias_before, float((new.judge - unseen).mean())),
        "bias after": (made.bias_after, float(after.mean())),
        "log-loss before": (made.log_loss_before, _loss((new.judge - 1) / SPAN, new_passed, len(mean))),
    }
    if made.calibrator.half_width is not None:
        low, high = made.calibrator.interval(new.judge)
        share = float(((low <= unseen) & (unseen <= high)).mean())
        known = float((off <= np.quantile(off, LEVEL, method="inverted_cdf") + ROUNDING).mean())
        found[ONE] = (Estimate.missing("a share of new outputs"), (share, known))
    if chances is not None:
        found["log-loss after"] = (made.log_loss_after, _loss(np.interp(new.judge, *chances), new_passed, len(mean)))
    return found


def _loss(stated: Floats, passed: Floats, n: int) -> float:
    p = np.clip(stated, 1 / (2 * n + 2), 1 - 1 / (2 * n + 2))
    return float(-(passed * np.log(p) + (1 - passed) * np.log(1 - p)).mean())


def bins_of(study: Study) -> Found:
    """The bin of the lowest score and that of the highest, with the share that people pass among such scores."""
    passed = majority((study.human >= PASS).astype(float))
    bins = reliability_bins((study.judge - 1) / SPAN, passed)
    found: Found = {}
    for name, one in (("lowest bin", bins[0]), ("highest bin", bins[-1])):
        inside = [score for score in LABELS if one.low - 1e-9 <= (score - 1) / SPAN <= one.high + 1e-9]
        found[name] = (one.passed, partial(share_of, inside))
    return found


def share_of(scores: list[float], rates: Truths, at: float) -> float:
    """What people pass of the outputs with these scores."""
    seen, good = (sum(max(float(rates[f"{what} {score:g}"](at)), 0.0) for score in scores) for what in ("scored", "passed"))
    return good / seen


@cache
def truths(rate: str, judge: str, population: int = POPULATION) -> Truths:
    """The true value of each figure by the rate of a pass."""
    rates, values = np.linspace(*RATES[rate], GRID), {}
    for place, at in enumerate(rates):
        study = make_study(float(at), judge, population, np.random.default_rng(place), clustered=False)
        whole = Resamples(np.zeros(population, dtype=np.int64), rng=np.random.default_rng(0))  # one prompt: no interval
        every = Sample("active", np.arange(population), np.ones(population), np.zeros(population, dtype=np.int64))
        found = {name: e.value for name, e in (figures_of_people_and_judge(study, whole) | figures_of_draw(study, every, None)).items()}
        found |= {name: e.value for name, e in figures_by_chance(study.judge, study.human, {"weights": np.ones(population)}, whole).items()}
        passed = majority((study.human >= PASS).astype(float))
        found |= {f"scored {score:g}": float((study.judge == score).mean()) for score in LABELS}
        found |= {f"passed {score:g}": float(passed[study.judge == score].sum() / population) for score in LABELS}
        for name, value in found.items():
            values.setdefault(name, []).append(np.nan if value is None else value)
    return {name: np.polynomial.Polynomial.fit(rates, seen, GRID - 2) for name, seen in values.items()}


def study_group(where: Where, rng: np.random.Generator, only: Collection[str]) -> tuple[float, Found]:
    _, n, rate, judge, how = where
    at = float(rng.uniform(*RATES[rate]))
    study = make_study(at, judge, n, rng, clustered=how == PROMPTS)
    draws = Resamples(study.prompt, rng=rng)
    found: Found = {name: (made, None) for name, made in figures_of_people_and_judge(study, draws, only).items()}
    if not only or OF_MAP & set(only):
        found |= figures_of_map(study, make_study(at, judge, NEW, rng, clustered=False), draws, rng)
    if how == PROMPTS:
        found.pop(EXACT, None)  # of independent outputs
        return at, found
    return at, found | bins_of(study)


def drawn_group(where: Where, rng: np.random.Generator, only: Collection[str]) -> tuple[float, Found]:
    _, n, rate, judge, how = where
    at, (policy, _, grouped) = float(rng.uniform(*RATES[rate])), how.partition(", ")
    study = make_study(at, judge, DRAWN_FROM, rng, clustered=bool(grouped))
    seen = np.where(rng.random(DRAWN_FROM) < PILOT, study.human.mean(axis=1), np.nan)
    strata = score_strata(study.judge)
    sample = draw(policy, study.judge, predicted_error(study.judge, seen, strata, SCALE), strata, n, rng=rng)
    figures = figures_of_draw(study, sample, study.prompt if grouped else None, only)
    return at, {name: (made, None) for name, made in figures.items()}


def tries_group(where: Where, rng: np.random.Generator, _: Collection[str]) -> tuple[float, Found]:
    """Prompts of ten outputs, alike in quality; the truth by numeric integration over prompts."""
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - 0.4 s to import

    n, at = where[1], float(rng.uniform(*RATES[where[2]]))
    knots, shares = np.polynomial.hermite_e.hermegauss(60)

    def chance(quality: Floats) -> Floats:
        return np.asarray(ndtr((np.sqrt(LIKENESS) * quality + float(ndtri(at))) / np.sqrt(1 - LIKENESS)))

    passes = rng.binomial(TRIES, chance(rng.standard_normal(n)))
    draws = Resamples(np.arange(n), rng=rng)
    truth = {k: float((1 - (1 - chance(knots)) ** k) @ shares / shares.sum()) for k in KS}
    return at, {f"pass@{k}": (pass_at_k([TRIES] * n, passes.tolist(), k, draws), truth[k]) for k in KS}


def games_of(strengths: Floats, n: int, rng: np.random.Generator, *, prompt: Ints | None) -> tuple[Ints, Ints, Floats]:
    x = rng.integers(4, size=n)
    y = (x + rng.integers(1, 4, size=n)) % 4
    of_prompt = np.zeros((n, 4)) if prompt is None else np.sqrt(LIKENESS) * rng.standard_normal((n, 4))[prompt]
    gap = strengths[x] - strengths[y] + of_prompt[np.arange(n), x] - of_prompt[np.arange(n), y]
    won = (rng.random(n) < 1 / (1 + np.exp(-gap))).astype(float)
    return x, y, np.where(rng.random(n) < TIES, 0.5, won)


@cache
def true_strengths(rate: str, how: str) -> Floats:
    """Those that ever more comparisons would lead to, ties counting as half a win."""
    n, rng = POPULATION, np.random.default_rng(0)
    x, y, outcome = games_of(STRENGTHS[rate], n, rng, prompt=np.arange(n) if how == PROMPTS else None)
    found = {r.name: r.strength.value for r in bradley_terry([PLAYERS[i] for i in x], [PLAYERS[i] for i in y], outcome)}
    return np.array([found[name] for name in PLAYERS])


def games_group(where: Where, rng: np.random.Generator, _: Collection[str]) -> tuple[float, Found]:
    n, rate, how = where[1], where[2], where[4]
    prompt = np.arange(n) // (PROMPT if how == PROMPTS else 1)
    x, y, outcome = games_of(STRENGTHS[rate], n, rng, prompt=prompt if how == PROMPTS else None)
    ratings = bradley_terry([PLAYERS[i] for i in x], [PLAYERS[i] for i in y], outcome, Resamples(prompt, rng=rng))
    true, found = true_strengths(rate, how), {}
    for rating in ratings:
        if rating.name in PLAYERS[:2]:
            player = "strongest" if rating.name == PLAYERS[0] else "second"
            strength = float(true[PLAYERS.index(rating.name)])
            found[f"strength of the {player}"] = (rating.strength, strength)
            found[f"the {player} beats the average"] = (rating.beats_average, 1 / (1 + np.exp(-strength)))
    return 0.0, found


Made = dict[Where, dict[str, "Tried | Shares"]]
Group = Callable[[Where, np.random.Generator, Collection[str]], tuple[float, Found]]
GROUPS: dict[str, tuple[Group, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {  # rates, judges, how labels come
    "study": (study_group, tuple(RATES), tuple(JUDGES), (ALONE, PROMPTS)),
    "drawn": (drawn_group, tuple(RATES), tuple(JUDGES), (*POLICIES, *(f"{policy}, {PROMPTS}" for policy in POLICIES))),
    "tries": (tries_group, tuple(RATES), ("",), (ALONE,)),
    "games": (games_group, tuple(STRENGTHS), ("",), (ALONE, PROMPTS)),
}


@dataclass(frozen=True)
class Shares:
    """Of each study, the share of new outputs within their intervals, and that with the shortest that hold 95 in 100 of them."""

    held: Floats
    known: Floats
    studies: int

    @property
    def cell(self) -> Cell:
        return Cell(len(self.held) / self.studies, float(self.held.mean()) if len(self.held) else 0.0, self.studies)


def simulate(
    where: Where, studies: int, seed: int = 0, population: int = POPULATION, only: Collection[str] = ()
) -> dict[str, Tried | Shares]:
    """Each figure's intervals and truths in the studies of one judge; with `only` those of some figures."""
    group, n, rate, judge, how = where
    rng = np.random.default_rng([seed, n, *(crc32(part.encode()) for part in (group, rate, judge, how))])
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(studies):
        at, found = GROUPS[group][0](where, rng, only)
        for name, (made, truth) in found.items():
            if only and name not in only:
                continue
            mine = rows.setdefault(name, [])
            if isinstance(truth, tuple):
                mine.append((*truth, at))
            elif made.value is not None and made.low is not None and made.high is not None:
                true = _true(truth, name, where, at, population)
                off = true - made.value
                arm = made.high - made.value if off > 0 else made.value - made.low
                mine.append((off, 0.0 if abs(off) <= ROUNDING else abs(off) / max(arm + ROUNDING, 1e-12), true))
    made = {name: np.array(mine).reshape(-1, 3).T for name, mine in rows.items()}
    return {name: Shares(m[0], m[1], studies) if name == ONE else Tried(*m, studies) for name, m in made.items()}


def _true(truth: Any, name: str, where: Where, at: float, population: int) -> float:
    if isinstance(truth, float):
        return truth
    rates = truths(where[2], where[3], population)
    return float(rates[name](at) if truth is None else truth(rates, at))


def said_of(name: str, rate: str, every: dict[tuple[str, str], Tried | Shares]) -> Said:
    """What is said of the cell of this range; `every` is that of each range and judge, neighbours too, with as many labels."""
    parts = [found for at, found in every.items() if at[0] == rate and at[1] not in FAIR]
    shares, tried = [p for p in parts if isinstance(p, Shares)], [p for p in parts if isinstance(p, Tried)]
    if shares:
        every_share = together(shares)
        cell, known = every_share.cell, float(every_share.known.mean()) if len(every_share.known) else 0.0
        if (word := word_of(cell)) == "above":
            word = "as near as can be" if known > HIGHEST else "cautious"
        return Said(cell.held, word, f"shortest that hold 95 {100 * known:.1f}", cell.with_interval)
    whole, why = together(tried), ""
    if (word := word_of(whole.cell)) == "above":
        of_each = [known_length(Errors(p.error, p.reach, p.reach, p.truth)) for p in tried if len(p.reach)]
        known = float(np.average(of_each, weights=[len(p.reach) for p in tried if len(p.reach)]))
        word, why = where_shortened(whole, rate, {at: found for at, found in every.items() if isinstance(found, Tried)})
        if known > HIGHEST:
            word, why = "as near as can be", f"known length {100 * known:.1f}"
    if name == EXACT and whole.cell.held > HIGHEST:
        word = "exact by design"
    return Said(whole.cell.held, word, why, whole.cell.with_interval)


def said_of_all(made: Made) -> dict[Key, Said]:
    said: dict[Key, Said] = {}
    for name, group, how in dict.fromkeys((name, where[0], where[4]) for where, found in made.items() for name in found):
        for n, rate in product(SIZES, GROUPS[group][1]):
            every = {at[2:4]: found[name] for at, found in made.items() if (at[0], at[1], at[4]) == (group, n, how) and name in found}
            if any(at[0] == rate for at in every):
                said[name, group, n, rate, how] = said_of(name, rate, every)
    return said


def said_again(pool: Executor | None, doubtful: list[Key], look: Look) -> dict[Key, Said]:
    """What is said of these cells of new studies, shared among the judges."""
    made: Made = {}
    for judges, mine in groupby(sorted(doubtful, key=judges_of), key=judges_of):
        wanted: dict[Where, set[str]] = {}
        for name, group, n, _, how in mine:
            for rate, judge in product(GROUPS[group][1], (*judges, *(FAIR if len(judges) > 1 else ()))):
                wanted.setdefault((group, n, rate, judge, how), set()).add(name)
        made |= made_again(pool, simulate, wanted, -(-look.studies // len(judges)), look.seed)
    said = said_of_all(made)
    return {key: said[key] for key in doubtful}


def judges_of(key: Key) -> tuple[str, ...]:
    return GROUPS[key[1]][2]


def plans(n: int, rate: str, judge: str, studies: int) -> list[float]:
    """The half width after as many more labels as `plan_labels` asks for, over the one that it foretold."""
    rng, ratios = np.random.default_rng([n, crc32(rate.encode()), crc32(judge.encode())]), []
    for at in rng.uniform(*RATES[rate], studies):
        study = make_study(float(at), judge, DRAWN_FROM, rng, clustered=False)
        passed, verdict = majority((study.human >= PASS).astype(float)), (study.judge >= PASS).astype(float)
        order = rng.permutation(DRAWN_FROM)
        plan = plan_labels(
            verdict, np.where(np.isin(np.arange(DRAWN_FROM), order[:n]), passed, np.nan), (0, 1), rng=rng, n_studies=SIMULATIONS
        )
        if plan.labels_more and plan.half_width:
            first = Sample("random", order[: n + plan.labels_more], np.ones(DRAWN_FROM), np.zeros(DRAWN_FROM, dtype=np.int64))
            reached = estimate_from(first, verdict, passed, (0, 1))
            ratios.append((reached.high - reached.low) / plan.half_width)  # half of today's half width is the goal
    return ratios


def _of_one(group: str, rate: str, judge: str, studies: int) -> Made:
    """The cells of one range and judge, whose truths are the same."""
    wheres = [(group, n, rate, judge, how) for n, how in product(SIZES, GROUPS[group][3])]
    return {where: simulate(where, max(studies // len(GROUPS[group][2]), 1)) for where in wheres}


def run(n: int, studies: int = STUDIES) -> list[dict[str, Any]]:
    """The sizes are those of the requirement: n, the outputs of the workspace, does not matter."""
    made: Made = {}
    tasks = [(group, rate, judge) for group, (_, rates, judges, _) in GROUPS.items() for rate, judge in product(rates, judges)]
    with ProcessPoolExecutor(2) as pool:
        for found in pool.map(_of_one, *zip(*tasks, strict=True), [studies] * len(tasks)):
            made |= found
        cells = list(product((20, 50), RATES, JUDGES))
        ratios = dict(zip(cells, pool.map(plans, *zip(*cells, strict=True), [studies // PLANS] * len(cells)), strict=True))
        said = judged_again(said_of_all(made), partial(said_again, pool))
    of_judges = (word_of(found.cell) for every in made.values() for found in every.values())
    return [*_plan_rows(ratios), *rows_of(_figures(made, said), "more", of_judges=of_judges)]


def _figures(made: Made, said: dict[Key, Said]) -> Iterator[tuple[str, list[Line]]]:
    for (name, group, how), mine in groupby(said, key=lambda key: (key[0], key[1], key[4])):
        lines = []
        for key in mine:
            n, rate = key[2:4]
            wheres = [(group, n, rate, judge, how) for judge in GROUPS[group][2]]
            each = " ".join(f"{100 * made[where][name].cell.held:.1f}" for where in wheres if name in made[where])
            lines.append((f"n {n}, {rate}", said[key], f"({each}) "))
        yield f"{name}{', ' if how else ''}{how}", lines


def _plan_rows(ratios: dict[tuple[int, str, str], list[float]]) -> Iterator[dict[str, Any]]:
    for n in (20, 50):
        every = np.concatenate([found for where, found in ratios.items() if where[0] == n])
        yield {"name": f"label k more, n {n}: half width reached over the one foretold", "value": float(every.mean()), "unit": "x"}
        near = float((np.abs(every - 1) <= 0.2).mean())
        yield {"name": f"label k more, n {n}: within a fifth of it", "value": 100 * near, "unit": "%"}
