"""Run the benchmarks, print a table with the ratio against each baseline, and write bench/results.json.

A benchmark is a module here with `run(n) -> list[dict]`; each dict has name, value, unit, and where there is
one: baseline (its name), baseline_value, bar (what it must reach), better ("lower" or "higher").
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import platform
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run, such as import or pages; all when none is named")
    parser.add_argument("--n", type=int, default=100_000, help="outputs in the workspace")
    options = parser.parse_args()
    found = [m.name.removeprefix("bench_") for m in pkgutil.iter_modules([str(HERE)]) if m.name.startswith("bench_")]
    results: list[dict[str, Any]] = []
    for name in options.names or found:
        print(f"== {name}", flush=True)
        for row in importlib.import_module(f"bench.bench_{name}").run(options.n):
            results.append({"benchmark": name, **row})
            print(line(row), flush=True)
    report = {"python": platform.python_version(), "machine": platform.machine(), "n": options.n, "results": results}
    if options.names:
        report["results"] = [*_others(options.names), *results]
    (HERE / "results.json").write_text(json.dumps(report, indent=2) + "\n")


def _others(names: list[str]) -> list[dict[str, Any]]:
    """What the last run found of benchmarks that this one left out."""
    path = HERE / "results.json"
    rows = json.loads(path.read_text())["results"] if path.exists() else []
    return [row for row in rows if row["benchmark"] not in names]


def line(row: dict[str, Any]) -> str:
    text = f"  {row['name']:<44} {row['value']:>12,.1f} {row['unit']:<10}"
    if row.get("baseline_value"):
        ratio = row["value"] / row["baseline_value"]
        text += f" x{ratio:<7.2f} against {row['baseline']} ({row['baseline_value']:,.1f})"
    if row.get("bar") is not None:
        is_met = row["value"] <= row["bar"] if row.get("better", "lower") == "lower" else row["value"] >= row["bar"]
        text += f"  bar {row['bar']:,g}: {'met' if is_met else 'MISSED'}"
    return text


if __name__ == "__main__":
    main()
