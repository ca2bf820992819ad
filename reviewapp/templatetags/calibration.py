"""Figures of a study as table cells and charts."""

from __future__ import annotations

from html import escape as escape_html
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from reviewapp.calibration.words import between, with_interval
from reviewapp.words import number, percent, short, signed

register = template.Library()
register.filter(signed)
MOST_ROWS = 40
ADDRESSES = ("base", "page", "links", "pages")  # of a chart


@register.simple_tag
def cell(figure: dict[str, Any], *, whole: bool = False) -> SafeString:
    """A table cell: the value with its interval, or a dash that says why there is none. `whole`: a count."""
    write = short if whole else number
    if figure["value"] is None:
        return format_html(
            '<td class="num"><span class="muted" title="{0}">–<span class="sr-only"> {0}</span></span></td>', figure["why_missing"]
        )
    return format_html(
        '<td class="num">{}<br><span class="muted tiny">{}</span></td>', write(figure["value"]), between(figure, write) or "no interval"
    )


@register.simple_tag
def share(figure: dict[str, Any]) -> str:
    """A share in percent with its interval, or why there is none."""
    return figure["why_missing"] if figure["value"] is None else with_interval(figure, percent)


@register.filter
def for_plotly(drawn: Any) -> Any:
    """A chart whose words are drawn as they are: Plotly reads tags and entities in them. Addresses, and keys in them, stay."""
    if isinstance(drawn, str):
        return escape_html(drawn, quote=False)
    if isinstance(drawn, list):
        return [for_plotly(part) for part in drawn]
    if isinstance(drawn, dict):
        return {name: part if name in ADDRESSES else for_plotly(part) for name, part in drawn.items()}
    return drawn


@register.inclusion_tag("calibration/chart.html")
def chart(chart: dict[str, Any] | None, name: str, text: str, anchor: str) -> dict[str, Any]:
    """A chart with its title, what it shows, and its rows as a table."""
    rows: list[tuple[str, str, str]] = []
    for trace in (chart or {}).get("traces", ()):
        if trace["kind"] == "dots":
            links = trace.get("links") or [""] * len(trace["at"])
            names = [at if isinstance(at, str) else number(at) for at in trace["at"]]
            hrefs = [f"{chart['base']}&{link}" if link else "" for link in links] if chart else []
            rows += list(zip(names, trace["text"], hrefs, strict=True))[:: 1 if trace.get("vertical") else -1]
        elif trace["kind"] == "bubbles":
            rows += largest_bubbles(trace, chart["base"])
    return {"chart": chart, "id": f"chart-{name}", "text": text, "anchor": anchor, "rows": rows}


def largest_bubbles(trace: dict[str, Any], base: str) -> list[tuple[str, str, str]]:
    """The pairs of scores with most outputs: (the pair, how many, where they are)."""
    order = sorted(range(len(trace["size"])), key=lambda i: -trace["size"][i])[:MOST_ROWS]
    texts = [trace["text"][i].rpartition(": ") for i in order]
    return [(pair, n, f"{base}&{trace['links'][i]}") for i, (pair, _, n) in zip(order, texts, strict=True)]


@register.simple_tag
def confusion_cell(found: dict[str, Any], kind: str) -> SafeString:
    text = f"{found['n']:,}"
    inner = (
        format_html('<a class="num" href="{}">{}</a>', found["href"], text)
        if found["n"]
        else format_html('<span class="num">{}</span>', text)
    )
    return format_html('<td class="cell-{}">{} <span class="muted tiny num">{} %</span></td>', kind, inner, f"{100 * found['share']:.0f}")
