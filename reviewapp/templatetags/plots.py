"""Small plots, drawn on the server as SVG: an interval on [0, 1], a bar, a progress line."""

from __future__ import annotations

from typing import Any

from django import template

from graders.calibration.result import Estimate
from reviewapp.queues.rater import signed
from reviewapp.words import short

register = template.Library()
register.filter("signed_points", signed)


@register.inclusion_tag("parts/interval.html")
def interval(estimate: Any, who: str = "human", band_low: float | None = None, band_high: float | None = None) -> dict[str, Any]:
    """An estimate of a rate as a dot with its interval, over the target band. `estimate` has value, low, high."""
    marks: dict[str, Any] = {"who": who, "has_value": estimate is not None and estimate.value is not None, "estimate": estimate}
    if marks["has_value"]:
        marks["x"] = percent(estimate.value)
        if estimate.low is not None:
            marks |= {"x1": percent(estimate.low), "x2": percent(estimate.high)}
    if band_low is not None and band_high is not None:
        marks |= {"band_x": percent(band_low), "band_width": percent(band_high - band_low)}
    return marks


@register.inclusion_tag("parts/interval.html")
def figure_interval(figure: dict[str, Any], who: str = "human") -> dict[str, Any]:
    """The same of a figure as it stands in JSON: value and ci."""
    marks: dict[str, Any] = {"who": who, "has_value": figure["value"] is not None}
    if marks["has_value"]:
        marks["x"] = percent(figure["value"])
        if figure["ci"]:
            marks |= {"x1": percent(figure["ci"][0]), "x2": percent(figure["ci"][1])}
    return marks


@register.inclusion_tag("parts/bar.html")
def score_bar(score: float | None, low: float, high: float, who: str = "judge") -> dict[str, Any]:
    """A score as a filled bar on its scale."""
    share = None if score is None else percent((score - low) / (high - low))
    return {"score": score, "width": share, "who": who, "high": high}


@register.filter
def score(value: float | None) -> str:
    """A score for reading: at most two decimals, no trailing zeros; an en dash when there is none."""
    return "–" if value is None else short(value)


@register.filter
def rate(value: float | None) -> str:
    """A rate in [0, 1] as a whole percentage."""
    return "–" if value is None else f"{100 * value:.0f} %"


@register.filter
def rate_ends(estimate: Estimate, between: str = "–") -> str:
    """The interval of a rate; where there is none, why."""
    return estimate.why_missing if estimate.low is None else f"{rate(estimate.low)}{between}{rate(estimate.high)}"


def percent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.2f}"
