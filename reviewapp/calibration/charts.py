"""The charts of a study as plain data, which static/js/charts.js draws with Plotly.

A chart has `traces` (points, dots with intervals, lines), axes, and for those that lead to outputs a `links` entry a mark:
the query of the outputs behind it. Colours are names of tokens, resolved in the browser, so both themes work. Words
are as they are; the filter for_plotly escapes them for the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import numpy as np

from graders.calibration.arrays import Floats, Ints
from graders.calibration.errors import bias_by
from graders.calibration.result import Estimate
from reviewapp.calibration.figures import Figure, in_points
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.items import Items
from reviewapp.calibration.words import with_interval
from reviewapp.words import number, percent, short

Chart = dict[str, Any]
MOST_BUBBLES = 1_200
GRID = 40  # steps of the scale, where there are more different pairs of scores than that
MOST_GROUPS = 20
LENGTH_BINS = 5
CROWDED = 12  # the largest bubble has its full size from a twelfth of all outputs
ROUND = 4  # decimals of a score in a link
FEWEST_IN_GROUP = 3


def rounded(items: Items) -> tuple[Floats, Floats]:
    """Judge and mean human scores as the scatter shows them: as they are, or on a grid where they are too many to draw."""
    judge, human = items.judge.round(ROUND), items.mean.round(ROUND)
    both = ~np.isnan(judge) & ~np.isnan(human)
    if len(np.unique(judge[both] + 1j * human[both])) <= MOST_BUBBLES:
        return judge, human
    low, high = items.scale
    step = (high - low) / GRID
    return tuple((low + step * np.round((scores - low) / step)).round(ROUND) for scores in (judge, human))


def charts(
    items: Items, grades: Grades, figures: Figure, overview: tuple[dict[str, Any], ...], variants: dict[int, str]
) -> dict[str, Chart]:
    found: dict[str, Chart | None] = {"ceiling": _ceiling(overview)}
    if not items.is_categorical and figures["judge"]["bias"]["value"] is not None:
        found |= {
            "scatter": _scatter(items, figures["calibrator"]["knots"]),
            "bland_altman": _bland_altman(items, figures["judge"]),
            "reliability": _reliability(items, figures["judge"]["reliability"]),
            **_bias_charts(items, grades, variants),
        }
    if not items.is_categorical and figures["human"]["mean_by_model"]:
        found["human_by_model"] = _human_by_model(items, figures["human"]["mean_by_model"])
    return {name: chart for name, chart in found.items() if chart}


def _ceiling(overview: tuple[dict[str, Any], ...]) -> Chart | None:
    """Agreement of judge with people beside that of people with each other, a row a criterion."""
    rows = [row for row in reversed(overview) if row["human_alpha"]["value"] is not None or row["judge_alpha"]["value"] is not None]
    if not rows:
        return None
    traces = []
    for name, who in (("people with each other", "human"), ("judge with people", "judge")):
        known = [row for row in rows if row[f"{who}_alpha"]["value"] is not None]
        marks = _dots(who, [row["title"] for row in known], [row[f"{who}_alpha"] for row in known], number)
        traces.append(marks | {"name": name, "pages": [row["key"] for row in known]})
    return {
        "title": "Agreement against the ceiling",
        "traces": traces,
        "x": {"title": "Krippendorff's α"},
        "y": {"rows": len(rows)},
        "zero": True,
    }


def _scatter(items: Items, knots: dict[str, list[float]] | None) -> Chart:
    judge, human = rounded(items)
    bubbles = _bubbles(judge, human, "judge", lambda j, h, n: f"judge {short(j)}, people {short(h)}: {n:,}")
    low, high = items.scale
    traces = [{"kind": "line", "x": [low, high], "y": [low, high], "color": "muted", "dash": True, "name": "same score"}, bubbles]
    if knots:
        traces.append({"kind": "line", "x": knots["judge"], "y": knots["human"], "color": "human", "name": "expected score of people"})
    axis = {"range": _padded(low, high)}
    return {"title": "Judge and people", "traces": traces, "x": {"title": "judge", **axis}, "y": {"title": "mean of people", **axis}}


def _bland_altman(items: Items, judge_figures: Figure) -> Chart:
    judge, human = rounded(items)
    bubbles = _bubbles(judge, human, "judge", lambda j, h, n: f"judge {short(j)}, people {short(h)}: {n:,}")
    pairs = np.array([bubbles["x"], bubbles["y"]])
    bubbles |= {"x": pairs.mean(axis=0).round(ROUND).tolist(), "y": (pairs[0] - pairs[1]).round(ROUND).tolist()}
    low, high = items.scale
    limits = judge_figures["loa"]["value"] or []
    lines = [{"kind": "line", "x": [low, high], "y": [0, 0], "color": "muted", "dash": True, "name": "no difference"}]
    lines += [
        {"kind": "line", "x": [low, high], "y": [end, end], "color": "unsure", "name": f"limit of agreement {number(end)}"}
        for end in limits
    ]
    bias = judge_figures["bias"]["value"]
    lines.append({"kind": "line", "x": [low, high], "y": [bias, bias], "color": "judge", "name": f"bias {number(bias)}"})
    return {
        "title": "Difference by size (Bland-Altman)",
        "traces": [*lines, bubbles],
        "x": {"title": "mean of judge and people", "range": _padded(low, high)},
        "y": {"title": "judge less people"},
    }


def _reliability(items: Items, bins: list[dict[str, Any]]) -> Chart | None:
    if not bins:
        return None
    low, high = items.scale
    at = [low + b["stated"] * (high - low) for b in bins]
    ends = [(low + b["low"] * (high - low), low + b["high"] * (high - low)) for b in bins]
    dots = _dots("judge", at, [b["passed"] for b in bins], percent) | {
        "vertical": True,
        "name": "share that people pass",
        "links": [f"said_min={start:.{ROUND}f}&said_max={end:.{ROUND}f}" for start, end in ends],
    }
    diagonal = {"kind": "line", "x": [low, high], "y": [0, 1], "color": "muted", "dash": True, "name": "score read as a chance"}
    x = {"title": "judge's score", "range": _padded(low, high)}
    return {
        "title": "Reliability",
        "traces": [diagonal, dots],
        "x": x,
        "y": {"title": "share that people pass", "range": [-0.04, 1.04], "percent": True},
    }


def _bias_charts(items: Items, grades: Grades, variants: dict[int, str]) -> dict[str, Chart | None]:
    outputs, at = grades.outputs, items.output
    edges = np.unique(np.quantile(outputs.length[at], np.linspace(0, 1, LENGTH_BINS + 1))) if len(at) else np.empty(0)
    by_length = np.clip(np.searchsorted(edges, outputs.length[at], side="right") - 1, 0, max(len(edges) - 2, 0))
    ends = [(edges[i], edges[i + 1] - (i < len(edges) - 2)) for i in range(len(edges) - 1)]
    lengths = [(f"{low:,.0f} to {high:,.0f}", f"length_min={low:.0f}&length_max={high:.0f}") for low, high in ends]
    models, of_model = _most_common(outputs.model[at], skipped=outputs.models.index("") if "" in outputs.models else None)
    names = [outputs.models[i] for i in models]
    used, of_variant = _most_common(outputs.variant[at])
    return {
        "bias_length": _bias_chart("By length, in characters", items, by_length, lengths, by_value=False),
        "bias_model": _bias_chart("By model", items, of_model, [(name, urlencode({"model": name})) for name in names]),
        "bias_variant": _bias_chart("By prompt variant", items, of_variant, [(variants.get(int(v), "?"), f"variant={v}") for v in used]),
        "bias_reviewer": _reviewer_chart(items, grades.people),
    }


def _bias_chart(title: str, items: Items, groups: Ints, names: list[tuple[str, str]], *, by_value: bool = True) -> Chart | None:
    if len(names) < 2:
        return None
    found = bias_by(items.judge, items.mean, groups, len(names), items.resamples, fewest=FEWEST_IN_GROUP)
    return group_chart(title, [(*name, e) for name, e in zip(names, found, strict=True)], items.scale, by_value=by_value)


def _reviewer_chart(items: Items, people: tuple[str, ...]) -> Chart | None:
    """The judge less each reviewer's own scores: the reviewer's severity and the judge's bias together."""
    counts = (~np.isnan(items.human)).sum(axis=0)
    chosen = np.argsort(-counts, kind="stable")[:MOST_GROUPS]
    chosen = np.sort(chosen[counts[chosen] >= FEWEST_IN_GROUP])
    if len(chosen) < 2:
        return None
    rows, column = np.nonzero(~np.isnan(items.human[:, chosen]))
    own = items.human[rows, chosen[column]]
    found = bias_by(items.judge[rows], own, column, len(chosen), items.resamples.of(rows), fewest=FEWEST_IN_GROUP)
    names = [(people[i], urlencode({"reviewer": people[i]})) for i in chosen]
    rows_of = [(*name, e) for name, e in zip(names, found, strict=True)]
    return group_chart("By reviewer", rows_of, items.scale, x="judge less this reviewer, in points")


def group_chart(
    title: str,
    found: list[tuple[str, str, Estimate]],
    scale: tuple[float, float],
    *,
    x: str = "judge less people, in points",
    by_value: bool = False,
) -> Chart | None:
    """A row a group: (name, the query of its outputs, its figure); None with fewer than two."""
    rows = [(name, link, in_points(e, scale)) for name, link, e in reversed(found) if e.value is not None]
    if by_value:
        rows.sort(key=lambda row: row[2]["value"])
    if len(rows) < 2:
        return None
    dots = _dots("judge", [name for name, _, _ in rows], [f for _, _, f in rows], number)
    if all(link for _, link, _ in rows):
        dots["links"] = [link for _, link, _ in rows]
    return {"title": title, "traces": [dots], "x": {"title": x}, "y": {"rows": len(rows)}, "zero": True}


def _human_by_model(items: Items, by_model: dict[str, Figure]) -> Chart:
    names = list(reversed(by_model))
    dots = _dots("human", names, [by_model[name] for name in names], number) | {"links": [urlencode({"model": name}) for name in names]}
    return {"title": "Mean score of people, by model", "traces": [dots], "x": {"title": "points"}, "y": {"rows": len(names)}}


def _dots(color: str, at: list[Any], figures: list[Figure], write: Callable[[float], str]) -> Chart:
    """Values with their intervals; `at` are the rows of a chart, or places on its other axis."""
    values = [f["value"] for f in figures]
    ends = [f["ci"] or [f["value"]] * 2 for f in figures]
    texts = [f"{with_interval(f, write)}, n {f['n']:,}" for f in figures]
    return {
        "kind": "dots",
        "color": color,
        "at": at,
        "value": values,
        "low": [v - e[0] for v, e in zip(values, ends, strict=True)],
        "high": [e[1] - v for v, e in zip(values, ends, strict=True)],
        "text": texts,
    }


def _bubbles(x: Floats, y: Floats, color: str, text: Any) -> Chart:
    """A bubble for each different pair of scores, its area by how many outputs have it."""
    both = ~np.isnan(x) & ~np.isnan(y)
    found, counts = np.unique(x[both] + 1j * y[both], return_counts=True)
    pairs = np.stack([found.real, found.imag], axis=1)
    return {
        "kind": "bubbles",
        "color": color,
        "x": pairs[:, 0].tolist(),
        "y": pairs[:, 1].tolist(),
        # Where no pair is frequent all are small, else they would hide each other.
        "size": (counts / counts.max() * min(1.0, CROWDED * counts.max() / counts.sum())).round(ROUND).tolist(),
        "text": [text(j, h, n) for (j, h), n in zip(pairs.tolist(), counts.tolist(), strict=True)],
        "links": [f"said={j:g}&human={h:g}" for j, h in pairs.tolist()],
        "name": "outputs",
    }


def _most_common(values: Ints, skipped: int | None = None) -> tuple[list[int], Ints]:
    """The most frequent of these numbers, in order, and each item's place among them, -1 for the others."""
    counts = np.bincount(values) if len(values) else np.empty(0, dtype=np.int64)
    if skipped is not None and skipped < len(counts):
        counts[skipped] = 0
    kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_GROUPS])
    kept = kept[counts[kept] > 0]
    place = np.full(len(counts), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    return kept.tolist(), place[values]


def _padded(low: float, high: float) -> list[float]:
    pad = 0.06 * (high - low)
    return [low - pad, high + pad]
