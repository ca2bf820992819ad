"""Three of the studies behind the alternative annotator test (Calderon, Reichart, Dror, ACL 2025, arXiv 2501.10970).

The repository nitaytech/AltTest publishes, for each, human_annotations.json (annotator -> instance -> value) and
llm_annotations.json (judge -> instance -> value). What was judged is not in it, so outputs come without content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

Values = Mapping[str, Mapping[str, Any]]  # who -> instance -> value
ASPECTS = ("coherence", "consistency", "fluency", "relevance")


def read(folder: Path) -> tuple[Values, Values]:
    """(people, judges)."""
    people, judges = (orjson.loads((folder / f"{who}_annotations.json").read_bytes()) for who in ("human", "llm"))
    return people, judges


def summeval_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """One output for each document and system; instance ids are <document>__<system>__<aspect>."""
    people, judges = read(folder)
    pairs = _in_order(instance.rpartition("__")[0] for instance in _instances(people, judges))
    for pair in pairs:
        document, _, system = pair.rpartition("__")
        instances = {aspect: f"{pair}__{aspect}" for aspect in ASPECTS}
        yield {
            "external_id": f"summeval/{document}/{system}",
            "task": "summeval",
            # Outputs of one document are one cluster.
            "prompt": f"Summarise the news article {document}. (Its text is not part of the published scores.)",
            "model": system,
            "content": "",
            "content_missing": "The study's repository publishes the scores only; the summaries are in SummEval's own data.",
            "metadata": {"document": document, "system": system},
            "grades": list(_grades("expert", people, judges, instances)),
        }


def mtbench_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """One output for each comparison; instance ids are <question>__<model a>__<model b>__<turn>."""
    people, judges = read(folder)
    for instance in _instances(people, judges):
        question, model_a, model_b, turn = instance.split("__")
        yield {
            "external_id": f"mtbench/{instance}",
            "task": "mtbench",
            "prompt": f"MT-bench question {question}: which of two models' answers is better?",
            "model": f"{model_a} vs {model_b}",
            "content": "",
            "content_missing": "The study's repository publishes the verdicts only; the two conversations are in MT-bench's own data.",
            "metadata": {"question": question, "model_a": model_a, "model_b": model_b, "turn": turn},
            "grades": list(_grades("annotator", people, judges, {"verdict": instance})),
        }


def cebab_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """One output for each review text; instance ids are <id>__stars.

    The last six digits of an id count the edits of one original review: those are one cluster.
    """
    people, judges = read(folder)
    for instance in _instances(people, judges):
        text_id = instance.removesuffix("__stars")
        yield {
            "external_id": f"cebab_stars/{text_id}",
            "task": "cebab_stars",
            "prompt": f"How many stars does the writer of review {text_id[:-6]} give the restaurant?",
            "content": "",
            "content_missing": "The study's repository publishes the stars only; the reviews are in CEBaB's own data.",
            "metadata": {"review": text_id[:-6], "edit": int(text_id[-6:])},
            "grades": list(_grades("worker", people, judges, {"stars": instance})),
        }


def _instances(people: Values, judges: Values) -> list[str]:
    return _in_order(instance for values in (*people.values(), *judges.values()) for instance in values)


def _in_order(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _grades(people_are: str, people: Values, judges: Values, instances: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """`instances`: criterion key -> instance id. Who gave none of these values has no grade here."""
    for rater, values in people.items():
        if criteria := _criteria(values, instances):
            yield {"grader": people_are, "kind": "human", "rater": rater, "mode": "blind", "criteria": criteria}
    for judge, values in judges.items():
        if criteria := _criteria(values, instances):
            yield {"grader": judge, "version": "1", "kind": "llm_judge", "criteria": criteria}


def _criteria(values: Mapping[str, Any], instances: Mapping[str, str]) -> dict[str, Any]:
    return {key: {"score": values[instance]} for key, instance in instances.items() if instance in values}
