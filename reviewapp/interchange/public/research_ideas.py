"""Expert reviews of research ideas by people and by AI (Si, Yang, Hashimoto, ICLR 2025, arXiv 2409.04109).

The repository NoviScl/AI-Researcher publishes data_points_all_anonymized.json (one review a row, columns as lists) and
id_title_mapping.csv. It names no reviewer, so raters are called after the number of their row. The idea texts are not in it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

CRITERIA = ("novelty", "excitement", "feasibility", "effectiveness", "overall")


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """One output for each idea, with the grades of its two to four reviewers."""
    columns = orjson.loads((folder / "data_points_all_anonymized.json").read_bytes())
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    titles = _titles(folder / "id_title_mapping.csv")
    reviews: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in enumerate(rows, 1):
        reviews.setdefault(row["idea_id"].replace(" ", ""), []).append((number, row))
    for idea, numbered in reviews.items():
        topic, condition = numbered[0][1]["topic"], numbered[0][1]["condition"]
        yield {
            "external_id": f"research_ideas/{idea}",
            "task": "research_ideas",
            "prompt": f"Propose a research idea on the topic {topic}.",
            "model": condition,
            "content": "",
            "content_missing": "The study's repository publishes the reviews; the ideas' texts are not among them.",
            "metadata": {
                **({"title": titles[idea]} if idea in titles else {}),
                "topic": topic,
                "condition": condition,
                "reviews": [_about(number, row) for number, row in numbered],
            },
            "grades": [_grade(number, row) for number, row in numbered],
        }


def _titles(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row[0].replace(" ", ""): row[1].strip() for row in csv.reader(file) if len(row) > 1}


def _about(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """What a reviewer said of the review itself. Minutes stay as they were typed ("16 min")."""
    said = {"confidence": row["confidence_score"], "minutes": row["minutes"], "familiarity": row["familiarity"]}
    return {"rater": f"review-{number}", **said}


def _grade(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "grader": "expert",
        "kind": "human",
        "rater": f"review-{number}",
        "mode": "blind",
        "overall": row["overall_score"],
        "rationale": row["overall_rationale"],
        "criteria": {key: {"score": row[f"{key}_score"], "rationale": row[f"{key}_rationale"]} for key in CRITERIA},
    }
