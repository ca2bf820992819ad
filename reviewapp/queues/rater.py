"""How a person's grades compare with answers that are known: on gold items, and where an adjudicator has decided since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graders.calibration.errors import bias
from graders.calibration.rates import wilson
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from reviewapp.models import Rubric
from reviewapp.words import short

NEAR = 0.1  # of the scale: what counts as agreeing where a rubric gives no verdict
FEWEST = 5  # with fewer, a sentence says that it is too early


@dataclass(frozen=True)
class Known:
    """An overall score on the rubric's scale and a verdict; either may be missing."""

    overall: float | None
    passed: bool | None


@dataclass(frozen=True)
class RaterRow:
    """`difference` is the person's overall less the known one, in points; `n_agrees` of `agreement.n` agree."""

    name: str
    n: int
    n_agrees: int
    agreement: Estimate
    difference: Estimate
    lean: str
    sentence: str


def rater_rows(given: Mapping[str, Sequence[tuple[Known, Known]]], rubric: Rubric | None, item: str, answer: str) -> list[RaterRow]:
    """A row for each person, by name. `given`: name -> (their grade, the known answer); `item`, `answer` are their words."""
    scale = (rubric.scale_low, rubric.scale_high) if rubric else (0.0, 1.0)
    return [_row(name, pairs, scale, item, answer) for name, pairs in sorted(given.items()) if pairs]


def _row(name: str, pairs: Sequence[tuple[Known, Known]], scale: tuple[float, float], item: str, answer: str) -> RaterRow:
    verdicts = [(own.passed, known.passed) for own, known in pairs if own.passed is not None and known.passed is not None]
    scores = [(own.overall, known.overall) for own, known in pairs if own.overall is not None and known.overall is not None]
    near = NEAR * (scale[1] - scale[0])
    agrees = [a == b for a, b in verdicts] or [abs(a - b) <= near + 1e-9 for a, b in scores]
    difference = _difference(scores)
    lean = _lean(difference)
    within = "" if verdicts or not agrees else f" (to within {_points(near)})"
    told = f"{name} agrees with {answer}{within} on {sum(agrees)} of {len(agrees)} {item}{'' if len(agrees) == 1 else 's'}"
    return RaterRow(name, len(pairs), sum(agrees), wilson(sum(agrees), len(agrees)), difference, lean, f"{told}{_leans(difference, lean)}")


def _difference(scores: Sequence[tuple[float, float]]) -> Estimate:
    if not scores:
        return Estimate.missing("no item has both scores")
    own, known = (np.array(column, dtype=np.float64) for column in zip(*scores, strict=True))
    if len(scores) == 1:
        return Estimate(float(own[0] - known[0]), None, None, 1, why_missing="one item has no spread")
    return bias(own, known, Resamples(range(len(scores)), rng=np.random.default_rng(0), n_boot=1000))


def _lean(difference: Estimate) -> str:
    """Generous or harsh where the interval decides it and there are items enough, else nothing."""
    if difference.low is None or difference.high is None or difference.n < FEWEST:
        return ""
    return "generous" if difference.low > 0 else "harsh" if difference.high < 0 else ""


def _leans(difference: Estimate, lean: str) -> str:
    if difference.value is None:
        return "."
    if difference.n < FEWEST:
        return f"; {FEWEST} scores are needed to say whether they lean to one side."
    if difference.low is None or difference.high is None:
        return f"; the mean difference is {signed(difference.value)} points ({difference.why_missing})."
    ends = f"{signed(difference.low)} to {signed(difference.high)}"
    if not lean:
        return f", and leans to neither side as far as can be told ({ends} points)."
    return f", and scores {_points(abs(difference.value))} {'higher' if lean == 'generous' else 'lower'} ({ends})."


def signed(value: float) -> str:
    text = short(value)
    return f"+{text}" if value > 0 and text != "0" else text


def _points(value: float) -> str:
    text = short(value)
    return f"{text} point{'' if text == '1' else 's'}"
