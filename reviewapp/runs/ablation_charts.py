"""The charts of the ablation page as plain data for static/js/charts.js, and what the page says first."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import wrap
from typing import Any

from reviewapp.calibration.target import WAYS
from reviewapp.calibration.words import with_interval
from reviewapp.models import Grader, Task
from reviewapp.runs.ablations import Ablation, Cell, Group
from reviewapp.words import counted, listed, number, percent

Chart = dict[str, Any]
MOST_NAMES = 4  # in a sentence


def rates_chart(made: Ablation, task: Task, grader: Grader | None, links: list[str], base: str) -> Chart | None:
    """A dot with its interval a group, over the target band; the corrected rate beside it where there is one."""
    rows = [(group, link) for group, link in zip(made.groups, links, strict=True) if group.rate["value"] is not None][::-1]
    if not rows:
        return None
    who = "judge" if grader else "human"
    traces = [_dots(who, rows, "rate", str(grader) if grader else "people, blind")]
    if grader:
        corrected = [(group, link) for group, link in rows if group.corrected["value"] is not None]
        if corrected:
            traces.insert(0, _dots("human", corrected, "corrected", "corrected by people"))
    return {
        "title": f"Pass rate of {task.title}",
        "file": f"pass-rates-{task.slug}",
        "traces": traces,
        "x": {"title": "pass rate, with 95 % interval; the band is the target", "range": [-0.02, 1.02], "percent": True},
        "y": {"rows": len(rows) * (1.3 if len(traces) > 1 else 1)},
        "grouped": len(traces) > 1,
        "band": [task.band_low, task.band_high],
        "base": base,
    }


def _dots(color: str, rows: list[tuple[Group, str]], name: str, title: str) -> Chart:
    figures = [getattr(group, name) for group, _ in rows]
    ends = [f["ci"] or [f["value"]] * 2 for f in figures]
    return {
        "kind": "dots",
        "color": color,
        "name": title,
        "at": [wrapped(group.name, 30) for group, _ in rows],
        "value": [f["value"] for f in figures],
        "low": [f["value"] - low for f, (low, _) in zip(figures, ends, strict=True)],
        "high": [high - f["value"] for f, (_, high) in zip(figures, ends, strict=True)],
        "text": [f"{with_interval(f, percent)}, n {f['n']:,}" for f in figures],
        "links": [link for _, link in rows],
    }


def heat_chart(made: Ablation, task: Task) -> Chart | None:
    """Criteria by groups: the share that passes, or the mean score, darker the higher."""
    groups = [group for group in made.groups if any(cell.share is not None for cell in group.cells)]
    if not groups:
        return None
    cells = [[group.cells[i] for group in groups] for i in range(len(groups[0].cells))][::-1]
    trace = {
        "kind": "heat",
        "color": "pass",
        "x": [wrapped(group.name, 18) for group in groups],
        "y": [wrapped(row[0].title, 26) for row in cells],
        "z": [[cell.share for cell in row] for row in cells],
        "text": [[cell_text(cell) for cell in row] for row in cells],
        "hover": [[f"{row[0].title}, {g.name}: {told(c)}" for c, g in zip(row, groups, strict=True)] for row in cells],
    }
    return {
        "title": f"Criteria of {task.title}",
        "file": f"criteria-{task.slug}",
        "traces": [trace],
        "x": {"columns": len(groups)},
        "y": {"rows": 1.4 * len(cells) + 1},
    }


def wrapped(name: str, width: int) -> str:
    """In lines, as plotly.js takes them."""
    return "<br>".join(wrap(name.replace("<", "‹"), width)) or name


def cell_text(cell: Cell) -> str:
    return "–" if cell.figure["value"] is None else writer_of(cell)(cell.figure["value"])


def writer_of(cell: Cell) -> Callable[[float], str]:
    return percent if cell.is_binary else number


def told(cell: Cell) -> str:
    found = cell.figure
    if found["value"] is None:
        return found["why_missing"]
    return f"{with_interval(found, writer_of(cell))}, n {found['n']:,}"


def sentences(made: Ablation, task: Task, grader: Grader | None) -> list[str]:
    """What the table comes to: who is in the band, how far the groups lie apart, where most fail."""
    known = [group for group in made.groups if group.rate["value"] is not None]
    if not known:
        return []
    said = [band_sentence(known, task)]
    high, low, who = known[0], known[-1], WAYS["judge" if grader else "people"]
    if len(known) > 1 and high.rate["value"] > low.rate["value"]:
        apart = high.rate["ci"] and low.rate["ci"] and high.rate["ci"][0] > low.rate["ci"][1]
        tail = "; their intervals lie apart." if apart else "; their intervals overlap, so this many outputs do not tell them apart."
        said.append(
            f"By {who}, {in_words(high.name)} passes most, {with_interval(high.rate, percent)}, {in_words(low.name)} least, "
            f"{with_interval(low.rate, percent)}{tail}"
        )
    hardest = min((c for c in made.total.cells if c.share is not None), key=lambda c: c.share or 0.0, default=None)
    if hardest and hardest.is_binary:
        fails = {"value": 1 - hardest.figure["value"], "ci": [1 - end for end in hardest.figure["ci"][::-1]]}
        said.append(f"Most fail at {hardest.title}: {with_interval(fails, percent)} of {counted(hardest.figure['n'], 'output')}.")
    elif hardest:
        said.append(f"The lowest scores are for {hardest.title}: {with_interval(hardest.figure, writer_of(hardest))} on average.")
    return said


def in_words(name: str) -> str:
    """In quotes where a sentence would make several of it."""
    return f"“{name}”" if "," in name or " and " in name else name


def band_sentence(known: list[Group], task: Task) -> str:
    """Which groups are in the target band, and by which rate; the intervals of some may not tell."""
    ways = [f"by {what}" for by, what in WAYS.items() if any(g.target.by == by for g in known)]
    parts = []
    for word in dict.fromkeys(g.target.word for g in known):
        names = [in_words(g.name) for g in known if g.target.word == word]
        if len(names) > MOST_NAMES:
            names = [*names[:MOST_NAMES], f"{len(names) - MOST_NAMES} more"]
        why = " (the interval does not settle it)" if word == "undecided" else ""
        parts.append(f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word}{why}")
    band = f"the target band of {percent(task.band_low)} to {percent(task.band_high)}"
    return f"Against {band}, {' where there is one, else '.join(ways)}: {'; '.join(parts)}."
