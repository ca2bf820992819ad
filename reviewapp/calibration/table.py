"""A study as a table to read in a terminal: a row a figure, a column for all criteria together and for each."""

from __future__ import annotations

from typing import Any

from reviewapp.words import counted

GROUPS = ("human", "judge", "pass_rate", "mean_score", "calibrator", "bias", "labels")
LEFT_OUT = ("reliability", "knots", "mean_by_model", "method", "labels_missing", "confusion", "pass_at_k", "why_missing")
TEST = ("winning_rate", "advantage_probability")  # numbers of the annotator test


def table_of(study: dict[str, Any]) -> str:
    columns = {"all criteria": study["pooled"], **study["criteria"]}
    figures = _figures(list(columns.values()))
    if study["drift"]["shift"]["value"] is not None:
        figures["drift.shift"] = [study["drift"]["shift"], *[None] * len(study["criteria"])]
    rows = [[study["task"], *columns], *([name, *map(_cell, cells)] for name, cells in figures.items())]
    reasons: dict[str, list[str]] = {}
    for name, cells in figures.items():
        for cell in cells:
            if cell and cell["why_missing"]:
                reasons.setdefault(cell["why_missing"], []).append(name)
    notes = [f"- {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
    return "\n".join([_head(study), "", *_aligned(rows), *(["", "Without a figure, or an interval:", *notes] if notes else []), ""])


def _figures(scopes: list[dict[str, Any]]) -> dict[str, list[dict[str, Any] | None]]:
    """Each figure by its name, one a scope."""
    named = [(group, name) for group in GROUPS for name in scopes[0].get(group, ()) if name not in LEFT_OUT]
    found: dict[str, list[dict[str, Any] | None]] = {f"{group}.{name}": [scope[group][name] for scope in scopes] for group, name in named}
    return found | {f"alt_test.{name}": [_of_test(scope["alt_test"], name) for scope in scopes] for name in TEST}


def _of_test(test: dict[str, Any], name: str) -> dict[str, Any]:
    """A plain number of the annotator test as a figure."""
    if name == "winning_rate" and test[name] is not None:
        return {"value": test[name], "ci": None, "why_missing": f"no interval: it is of {counted(len(test['p_values']), 'person')} alone"}
    return {"value": test[name], "ci": test.get(f"{name}_ci"), "why_missing": test["why_missing"]}


def _head(study: dict[str, Any]) -> str:
    judge = f"Judge {study['judge']}" if study["judge"] else "No judge"
    outputs, people = counted(study["n_outputs"], "output"), counted(study["n_humans"], "person")
    head = f"{judge} on {study['task']}: {outputs} with {study['mode']} labels of {people}. Intervals of 95 %."
    drift = f"Drift: {study['drift']['verdict']}." if study["drift"]["shift"]["value"] is not None else ""
    return "\n".join(line for line in (head, study["labels"]["text"], drift) if line)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    value, interval = figure["value"], figure["ci"]
    if value is None:
        return "-"
    if isinstance(value, list):
        ends = "; ".join(map(_between, interval)) if interval else "no interval"
        return f"{' to '.join(map(_number, value))} [{ends}]"
    return f"{_number(value)} [{_between(interval) if interval else 'no interval'}]"


def _between(ends: list[float]) -> str:
    return ", ".join(map(_number, ends))


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) >= 100 else f"{value:.3f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
