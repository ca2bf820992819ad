"""A graded run in small plots: the memory of a program over its tokens, and the time and memory that the run took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graders.sandbox import Limits

# series of a grade's course: its title, and the ends of its scale (None: 0 to its own largest value)
SERIES = {
    "state_norm": ("Size of the state", None),
    "write_gate": ("Write gate", (0.0, 1.0)),
    "blend_gate": ("Blend gate", (0.0, 1.0)),
}
WIDTH, HEIGHT, EDGE = 100.0, 24.0, 1.5


@dataclass(frozen=True)
class Curve:
    """One series as a line. `points` are coordinates in a box of 100 x 24; `scale` says what its top and bottom stand for."""

    title: str
    points: str
    values: Sequence[str]
    scale: str

    @property
    def ends(self) -> str:
        return f"{self.values[0]} → {self.values[-1]}"


@dataclass(frozen=True)
class Course:
    """The curves of a run, and the same as rows of a table (step, then one value a curve)."""

    curves: Sequence[Curve]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bar:
    """One figure of a run against the most it could be. `width` in percent."""

    title: str
    width: str
    text: str


def course_of(log: Mapping[str, Any]) -> Course | None:
    """The memory over time that a grade keeps; None when it keeps none."""
    told = log.get("course")
    series = {name: told[name] for name in SERIES if _is_series(told.get(name))} if isinstance(told, dict) else {}
    if not series:
        return None
    curves = [_curve(name, values) for name, values in series.items()]
    length = max(len(curve.values) for curve in curves)
    rows = [[str(i + 1), *(c.values[i] if i < len(c.values) else "–" for c in curves)] for i in range(length)]
    return Course(curves, rows)


def bars_of(log: Mapping[str, Any], duration_s: float | None) -> list[Bar]:
    """Time and memory of a run in the sandbox; nothing for a grader that ran nothing."""
    sandbox = log.get("sandbox") or {}
    if not sandbox.get("backend"):
        return []
    wall, cpu, memory = duration_s or 0.0, float(sandbox.get("cpu_s") or 0.0), float(log.get("peak_memory_mb") or 0.0)
    longest = max(wall, cpu)
    bars = [_bar("Time", wall, longest, f"{wall:.1f} s")] if wall else []
    bars += [_bar("Processor time", cpu, longest, f"{cpu:.1f} s")] if cpu else []
    bars += _gpu_bars(sandbox)
    limit = Limits().memory_mb
    return bars + ([_bar("Peak memory", memory, limit, f"{memory:,.0f} MB of {limit:,} allowed")] if memory else [])


def _gpu_bars(sandbox: Mapping[str, Any]) -> list[Bar]:
    """Peaks of GPU memory against the starter's: on the pretended GPU, and on a real one where the grader had one."""
    real = sandbox.get("gpu_run") or {}
    peaks = [
        ("Pretended GPU", sandbox.get("gpu_peak_mb"), sandbox.get("starter_gpu_peak_mb")),
        (str(real.get("device")), real.get("peak_mb"), real.get("starter_peak_mb")),
    ]
    told = [(title, float(peak), float(starter)) for title, peak, starter in peaks if peak and starter]
    return [
        _bar(title, peak, max(peak, starter), f"{peak:,.0f} MB at its peak; the starter needs {starter:,.0f} MB")
        for title, peak, starter in told
    ]


def _bar(title: str, value: float, most: float, text: str) -> Bar:
    return Bar(title, f"{100 * min(1.0, value / most):.1f}" if most else "0", text)


def _is_series(values: object) -> bool:
    return isinstance(values, list) and len(values) > 1 and all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _curve(name: str, values: Sequence[float]) -> Curve:
    title, scale = SERIES[name]
    low, high = scale or (0.0, max(*values, 1e-9))
    step = WIDTH / (len(values) - 1)
    spots = [(i * step, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * min(1.0, max(0.0, (v - low) / (high - low)))) for i, v in enumerate(values)]
    return Curve(title, " ".join(f"{x:.2f},{y:.2f}" for x, y in spots), [f"{v:.3g}" for v in values], f"{low:g} to {high:.3g}")
