"""A study as a table to read in a terminal: a row a figure, a column for all criteria together and for each."""

from __future__ import annotations

from typing import Any

from reviewapp.words import counted

GROUPS = ("human", "judge", "pass_rate", "mean_score", "calibrator", "bias")
LEFT_OUT = ("reliability", "knots", "mean_by_model", "method", "labels_missing", "confusion", "pass_at_k", "why_missing")


def table_of(study: dict[str, Any]) -> str:
    columns = {"all criteria": study["pooled"], **study["criteria"]}
    rows = [[f"{study['task']}", *columns]]
    reasons: dict[str, list[str]] = {}
    for group in GROUPS:
        for name in study["pooled"][group]:
            if name in LEFT_OUT:
                continue
            cells = [columns[c][group][name] for c in columns]
            rows.append([f"{group}.{name}", *(_cell(c) for c in cells)])
            for cell in cells:
                if cell["value"] is None and cell["why_missing"]:
                    reasons.setdefault(cell["why_missing"], []).append(f"{group}.{name}")
    for name in ("winning_rate", "advantage_probability"):
        rows.append([f"alt_test.{name}", *(_number(c["alt_test"][name]) for c in columns.values())])
    why = study["pooled"]["alt_test"]["why_missing"]
    if why:
        reasons.setdefault(why, []).append("alt_test")
    notes = [f"- {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
    return "\n".join([_head(study), "", *_aligned(rows), *(["", "No figure:", *notes] if notes else []), ""])


def _head(study: dict[str, Any]) -> str:
    judge = f"Judge {study['judge']}" if study["judge"] else "No judge"
    people = counted(study["n_humans"], "person")
    return (
        f"{judge} on {study['task']}: {counted(study['n_outputs'], 'output')} with {study['mode']} labels of {people}. Intervals of 95 %."
    )


def _cell(figure: dict[str, Any]) -> str:
    value, interval = figure["value"], figure["ci"]
    if isinstance(value, list):
        return " to ".join(_number(v) for v in value)
    return _number(value) + (f" [{_number(interval[0])}, {_number(interval[1])}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) >= 100 else f"{value:.3f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
