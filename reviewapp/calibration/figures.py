"""The groups of figures of a study, as they stand in JSON. Definitions: docs/statistics.md."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np

from graders.calibration import agreement, alpha, decision, errors, icc, means, noise, probes, rank, recalibration, reliability
from graders.calibration.alt_test import Scoring, alternative_annotator_test
from graders.calibration.result import Estimate
from reviewapp.calibration.grades import Grades, Outputs
from reviewapp.calibration.items import Items

Figure = dict[str, Any]
NOT_A_SCALE = "not defined, because the criterion is categorical: its values lie on no scale"
MAP_ERRORS, MAP_LOSSES = ("mae_before", "mae_after", "bias_before", "bias_after"), ("log_loss_before", "log_loss_after")
NO_THRESHOLD = "not defined, because the rubric says of no score that it passes"
MAX_MODELS = 50
FAMILIES = {
    "anthropic": ("claude", "sonnet", "opus", "haiku"),
    "openai": ("gpt", "chatgpt", "davinci", "openai"),
    "google": ("gemini", "gemma", "palm", "bard"),
    "meta": ("llama",),
    "mistral": ("mistral", "mixtral"),
    "alibaba": ("qwen",),
    "deepseek": ("deepseek",),
}


def figure(estimate: Estimate) -> Figure:
    has_interval = estimate.low is not None
    return {
        "value": estimate.value,
        "ci": [estimate.low, estimate.high] if has_interval else None,
        "n": estimate.n,
        "why_missing": estimate.why_missing or None,
        "method": estimate.method or None,
    }


def in_points(estimate: Estimate, scale: tuple[float, float]) -> Figure:
    """A difference of scores, which can't be larger than their scale is long."""
    span = scale[1] - scale[0]
    return figure(estimate.within(-span, span))


def missing(why: str, n: int = 0) -> Figure:
    return figure(Estimate.missing(why, n))


def human_group(items: Items, grades: Grades) -> Figure:
    """How far people agree among themselves: what no judge can be asked to beat."""
    draws = items.resamples
    if items.is_categorical:
        nominal = alpha.krippendorff_alpha(items.human, "nominal", draws, items.labels)
        names = ("alpha_ordinal", "alpha_interval", "icc", "icc_2k", "reviews_needed", "mean")
        return {name: missing(NOT_A_SCALE) for name in names} | {"alpha_nominal": figure(nominal), "mean_by_model": {}}
    alphas = alpha.krippendorff_alphas(items.human, alpha.METRICS, draws, items.labels)
    single = icc.icc1(items.human, draws, items.labels)
    return {
        **{f"alpha_{metric}": figure(found) for metric, found in alphas.items()},
        "icc": figure(single),
        "icc_2k": figure(icc.icc2k(items.human, draws, items.labels)),
        "reviews_needed": figure(noise.reviews_needed(single)),
        "mean": figure(means.mean_score(items.human, draws, items.scale)),
        "mean_by_model": _mean_by_model(items, grades),
    }


def judge_group(items: Items, rng: np.random.Generator) -> Figure:
    """The judge against people. Set each figure beside the human group's."""
    human, mean, judge, draws = items.human, items.mean, items.judge, items.resamples
    if items.is_categorical:
        names = ("weighted_kappa", "gwet_ac2", "spearman", "kendall_b", "pearson", "spearman_within", "mae", "bias", "loa")
        found = {name: missing(NOT_A_SCALE) for name in names}
        of_judge = figure(alpha.judge_alpha(judge, human, "nominal", draws, items.labels))
        return found | {"alpha": of_judge, **_decision(items), **_reliability(items)}
    return {
        "weighted_kappa": figure(agreement.weighted_kappa(judge, human, items.labels, rng=rng, resamples=draws)),
        "alpha": figure(alpha.judge_alpha(judge, human, "ordinal", draws, items.labels)),
        "gwet_ac2": figure(agreement.gwet_ac2(judge, human, items.labels, draws)),
        "spearman": figure(rank.spearman(judge, mean, draws)),
        "kendall_b": figure(rank.kendall_b(judge, mean, draws)),
        "pearson": figure(rank.pearson(judge, mean, draws)),
        "spearman_within": figure(rank.within(rank.spearman, judge, mean, items.criterion, draws)),
        "mae": in_points(errors.mae(judge, mean, draws), items.scale),
        "bias": in_points(errors.bias(judge, mean, draws), items.scale),
        "loa": _limits(errors.limits_of_agreement(judge, mean, draws)),
        **_decision(items),
        **_reliability(items),
    }


Second = rank.SecondReviewer | None


def second_reviewers(items: Items, columns: list[int]) -> dict[int | None, Second]:
    """Does the judge rank outputs as well as one more reviewer would? None: all criteria together, `columns`; else each by its column."""
    if items.is_categorical:
        return {}
    found = rank.second_reviewer(items.judge, items.human, items.criterion, items.resamples)
    few = Estimate.missing("not defined, because too few outputs have different scores of two people")
    none = found if found.people.value is None else rank.SecondReviewer(few, few, few)
    return {None: found} | {c: found.by_group.get(c, none) for c in columns}


def add_second_reviewer(human: Figure, judge: Figure, found: Second) -> None:
    names = ((human, "spearman_second", "people"), (judge, "spearman_second", "judge"), (judge, "spearman_gap", "difference"))
    for group, name, field in names:
        group[name] = missing(NOT_A_SCALE) if found is None else figure(getattr(found, field))


def alt_test_group(items: Items, people: tuple[str, ...], epsilon: float) -> Figure:
    """The alternative annotator test. Winning rate and advantage probability are plain numbers."""
    scoring: Scoring = "accuracy" if items.is_categorical else "neg_rmse"
    test = alternative_annotator_test(items.judge, items.human, scoring, epsilon, names=people, resamples=items.resamples)
    advantage = figure(test.advantage_probability)
    return {
        "winning_rate": test.winning_rate,
        "advantage_probability": advantage["value"],
        "advantage_probability_ci": advantage["ci"],
        "passes": test.passes,
        "p_values": {person.name: person.p_value for person in test.people},
        "advantage": {person.name: person.advantage for person in test.people},
        "n_left_out": len(test.left_out),
        "epsilon": epsilon,
        "n": advantage["n"],
        "why_missing": test.why_missing or advantage["why_missing"],
    }


def calibrator_group(items: Items, rng: np.random.Generator) -> Figure:
    """The map from judge to expected human score, and the judge's errors before and after it, on unseen prompts."""
    if items.is_categorical:
        head = {"method": None, "labels_missing": None, "why_missing": NOT_A_SCALE, "half_width": missing(NOT_A_SCALE), "knots": None}
        return head | {name: missing(NOT_A_SCALE) for name in (*MAP_ERRORS, *MAP_LOSSES)}
    made = recalibration.recalibrate(
        items.judge, items.mean, items.human_passes, items.scale, items.clusters, rng=rng, resamples=items.resamples, outputs=items.output
    )
    fitted = made.calibrator
    return {
        "method": fitted and fitted.method,
        "labels_missing": made.labels_missing,
        "why_missing": made.why_missing or None,
        "half_width": half_width(fitted.half_width, fitted.n) if fitted else missing(made.why_missing),
        "knots": fitted and {"judge": list(fitted.judge), "human": list(fitted.human)},
        **before_and_after(made, items.scale),
    }


def before_and_after(made: recalibration.Recalibration, scale: tuple[float, float]) -> dict[str, Figure]:
    """The judge's errors and log-loss as it is, and put through the map."""
    return {name: in_points(getattr(made, name), scale) for name in MAP_ERRORS} | {name: figure(getattr(made, name)) for name in MAP_LOSSES}


def half_width(value: float | None, n: int) -> Figure:
    """Of the interval of one prediction, by a map of n labels."""
    if value is None:
        return missing(recalibration.NO_WIDTH, n)
    return figure(Estimate(value, None, None, n, "no interval: it is half the width of one"))


def bias_group(items: Items, grades: Grades, judge_name: str) -> Figure:
    """What moves the judge other than quality."""
    clusters, outputs = items.clusters, grades.outputs
    if items.is_categorical:
        group = {name: missing(NOT_A_SCALE) for name in ("length", "self_preference", "reviewer")}
        return group | {"position": _position(items)}
    lengths = outputs.length[items.output]
    return {
        "length": figure(probes.length_bias(items.judge, items.mean, lengths, clusters)),
        "position": missing("not defined, because nothing is compared in pairs"),
        "self_preference": _self_preference(items, outputs, judge_name),
        "reviewer": _reviewers(items, grades.people),
    }


@cache
def family_of(model: str) -> str:
    """The maker of a model by the words of its name, "" when not known."""
    words = re.split(r"[^a-z]+", model.lower())
    return next((family for family, names in FAMILIES.items() if any(w.startswith(names) for w in words if w)), "")


def _mean_by_model(items: Items, grades: Grades) -> Figure:
    models = grades.outputs.model[items.output]
    present = np.flatnonzero(np.bincount(models)) if len(models) else []
    named = {name: i for i in present if (name := grades.outputs.models[i])}
    if not 1 < len(named) <= MAX_MODELS:
        return {}
    place = np.full(len(grades.outputs.models), -1)
    place[list(named.values())] = np.arange(len(named))
    mine = place[models] >= 0
    found = means.mean_scores(items.human[mine], place[models][mine], len(named), items.resamples.of(mine), items.scale)
    return {name: figure(estimate) for name, estimate in zip(named, found, strict=True)}


def _limits(limits: errors.Limits) -> Figure:
    low, high = figure(limits.low), figure(limits.high)
    if low["value"] is None:
        return low
    ci = [low["ci"], high["ci"]] if low["ci"] and high["ci"] else None
    return low | {"value": [low["value"], high["value"]], "ci": ci}


def _decision(items: Items) -> Figure:
    names = ("precision", "recall", "f1", "false_pass_rate", "agreement")
    if items.threshold is None or items.is_categorical:
        why = NOT_A_SCALE if items.is_categorical else NO_THRESHOLD
        return {name: missing(why) for name in ("confusion", *names)}
    made = decision.decide(items.judge_passes, items.human_passes, items.resamples)
    counts = {name: getattr(made, name) for name in ("true_pass", "false_pass", "false_fail", "true_fail")}
    none = missing("not defined, because no output has both verdicts")
    confusion = none | {"value": counts, "n": made.n, "why_missing": "no interval: these are counts"} if made.n else none
    return {"confusion": confusion} | {name: figure(getattr(made, name)) for name in names}


def _reliability(items: Items) -> Figure:
    if items.threshold is None or items.is_categorical:
        why = NOT_A_SCALE if items.is_categorical else NO_THRESHOLD
        return {"ece": missing(why), "brier": missing(why), "reliability": []}
    low, high = items.scale
    stated, passed = np.clip((items.judge - low) / (high - low), 0, 1), items.human_passes
    bins = reliability.reliability_bins(stated, passed)
    return {
        "ece": figure(reliability.ece(stated, passed, items.resamples)),
        "brier": figure(reliability.brier(stated, passed, items.resamples)),
        "reliability": [{"low": b.low, "high": b.high, "stated": b.stated, "passed": figure(b.passed)} for b in bins],
    }


def _position(items: Items) -> Figure:
    """Only for values such as model_a, tie, model_b: the first is the first answer, the last the second."""
    if len(items.values) == 3 and items.values[1] == "tie":
        return figure(probes.position_bias(1 - items.judge, 1 - items.human, items.clusters))
    return missing("not defined, because the values are not a first answer, a tie and a second answer")


def _self_preference(items: Items, outputs: Outputs, judge_name: str) -> Figure:
    own = family_of(judge_name)
    if not own:
        return missing("not defined, because the judge's name tells no model family")
    families = [family_of(model) for model in outputs.models]
    is_own = np.array([np.nan if not f else float(f == own) for f in families])[outputs.model[items.output]]
    if np.isnan(is_own).all():
        return missing("not defined, because no output's model tells its family")
    return figure(probes.self_preference(items.judge, items.mean, is_own, items.clusters))


def _reviewers(items: Items, people: tuple[str, ...]) -> Figure:
    """The spread of severities (their standard deviation), and each reviewer's."""
    found = probes.reviewer_severity(items.human, people, items.clusters)
    known = [e.value for e in found.values() if e.value is not None]
    if len(known) < 2:
        why = next((e.why_missing for e in found.values()), "not defined, because no output has a human score")
        return missing(why) | {"by_reviewer": {}}
    spread = math.sqrt(sum(value**2 for value in known) / (len(known) - 1))
    n = sum(e.n for e in found.values())
    why = "no interval: each reviewer has one of their own"
    by_reviewer = {name: in_points(e, items.scale) for name, e in found.items()}
    return figure(Estimate(spread, None, None, n, why)) | {"by_reviewer": by_reviewer}
