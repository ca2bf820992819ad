"""Cells and figures of the pages about runs and pass rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from graders.calibration.result import Estimate
from reviewapp.calibration.figures import Figure, figure
from reviewapp.calibration.words import between, with_interval
from reviewapp.models import Grader, Task
from reviewapp.runs.ablation_charts import writer_of
from reviewapp.runs.ablations import Failure, Group
from reviewapp.runs.progress import Progress, Spend
from reviewapp.templatetags.plots import percent as place
from reviewapp.words import counted, percent

register = template.Library()


@register.inclusion_tag("runs/figure.html")
def figure_chart(chart: dict[str, Any] | None, name: str) -> dict[str, Any]:
    return {"chart": chart, "id": f"chart-{name}", "formats": ("svg", "png")}


@register.inclusion_tag("parts/interval.html")
def banded_interval(figure: dict[str, Any], task: Task, grader: Grader | None) -> dict[str, Any]:
    """A rate with its interval over the task's target band."""
    low, high = figure["ci"] or (figure["value"], figure["value"])
    band = {"band_x": place(task.band_low), "band_width": place(task.band_high - task.band_low)}
    marks = {"x": place(figure["value"]), "x1": place(low), "x2": place(high)}
    return {"who": "judge" if grader else "human", "has_value": True, **marks, **band}


@register.simple_tag
def rate_cell(figure: dict[str, Any]) -> SafeString:
    return figure_cell(figure, percent)


@register.simple_tag
def criterion_cell(group: Group, number: int) -> SafeString:
    cell = group.cells[number]
    return figure_cell(cell.figure, writer_of(cell))


@register.simple_tag
def chance_cell(group: Group, k: str) -> SafeString:
    return figure_cell(group.pass_at_k[k], percent, "prompt")


def figure_cell(found: Figure, write: Callable[[float], str], of: str = "output") -> SafeString:
    """A table cell: the value with its interval and of how many; where one of them is missing, why."""
    if found["value"] is None:
        return format_html('<td class="num"><span class="muted tiny why">{}</span></td>', found["why_missing"])
    said = ends(found, write)
    return format_html(
        '<td class="num">{}<br>{}<br><span class="muted tiny">{}</span></td>', write(found["value"]), said, counted(found["n"], of)
    )


@register.simple_tag
def ends(found: Figure, write: Callable[[float], str] = percent) -> SafeString:
    """The interval; where there is none, why."""
    if found["ci"]:
        return format_html('<span class="muted tiny">{}</span>', between(found, write))
    return format_html('<span class="muted tiny why">{}</span>', found["why_missing"])


@register.simple_tag
def by_group(failure: Failure, groups: tuple[Group, ...]) -> str:
    """In which groups a category was seen, the most first."""
    seen = sorted(((n, group.name) for n, group in zip(failure.by_group, groups, strict=True) if n), key=lambda row: -row[0])
    return ", ".join(f"{name} {n:,}" for n, name in seen[:4]) + (f" and {len(seen) - 4} more" if len(seen) > 4 else "")


@register.simple_tag
def share_with_interval(estimate: Estimate) -> SafeString:
    """A share with its interval, or why there is none."""
    if estimate.value is None:
        return format_html('<span class="muted">{}</span>', estimate.why_missing)
    return format_html("{}", with_interval(figure(estimate), percent))


@register.simple_tag
def spent(spend: Spend) -> SafeString:
    """US dollars as the server counted them; what has no known price is said."""
    if not spend.calls:
        return format_html('<span class="muted">{}</span>', "–")
    if spend.unpriced == spend.calls:
        return format_html('<span class="muted">{}</span>', "price unknown")
    text = f"${spend.cost_usd:,.4f}" if spend.cost_usd < 0.1 else f"${spend.cost_usd:,.2f}"
    return format_html("{}{}", text, f" and {spend.unpriced:,} calls without a price" if spend.unpriced else "")


@register.simple_tag
def progress_line(progress: Progress) -> SafeString:
    share = 100 * progress.n_ended / progress.n_planned if progress.total else 0
    return format_html(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="8"/>'
        '<rect class="accent" width="{}" height="8"/></svg>',
        f"{share:.1f}",
    )
