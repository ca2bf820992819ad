"""The dataset card: README.md with the YAML header that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from reviewapp.rewards.columns import COLUMNS
from reviewapp.rewards.formats import FORMATS
from reviewapp.rewards.rows import Reader
from reviewapp.rewards.spec import POLICY_TEXTS

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
CARD_TITLE = "# Graded outputs"
SOURCE_TEXTS = {
    "adjudicated": "settled by an adjudicator",
    "human": "people",
    "calibrated_judge": "a judge, calibrated against people",
    "judge": "a judge, as it said it",
    "code": "a code grader",
}


def card_of(reader: Reader, manifest: dict[str, Any], files: Sequence[dict[str, Any]]) -> str:
    """The whole file. Follows from the manifest and the rubrics alone."""
    return "\n".join([*_header(reader, manifest, files), "", *_body(reader, manifest, files), ""])


def _header(reader: Reader, manifest: dict[str, Any], files: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every text is written as JSON, which is YAML: no text of a user can break out of it."""
    sources = manifest["counts"]["source"]
    by_people = bool(sources.keys() & {"adjudicated", "human"})
    by_machines = bool(sources.keys() - {"adjudicated", "human"})
    yield "---"
    yield f"pretty_name: {json.dumps('Graded outputs: ' + ', '.join(manifest['counts']['task']))}"
    yield f"license: {json.dumps(reader.spec.license)}"
    yield "annotations_creators:"
    yield from (f"- {name}" for name, is_in in (("expert-generated", by_people), ("machine-generated", by_machines)) if is_in)
    yield "tags:"
    yield from ("- touchstone", "- reward-modeling", "- human-feedback", "- rubric")
    yield "size_categories:"
    yield f"- {size_category(manifest['rows'])}"
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    for file in files:
        yield f"  - split: {file['split']}"
        yield f"    path: {file['path']}"
    yield "---"


def _body(reader: Reader, manifest: dict[str, Any], files: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield CARD_TITLE
    yield ""
    yield f"{manifest['rows']:,} outputs of models, each with a label by `{reader.spec.policy}`. {POLICY_TEXTS[reader.spec.policy]}"
    yield f"Tasks: `{'`, `'.join(manifest['counts']['task'])}`. Written by Touchstone {manifest['software']['version']}."
    yield from _section("Know before you train", [f"- {text}" for text in manifest["warnings"]])
    yield from _section("Where the labels come from", _sources(manifest))
    yield from _section("Files", _files(reader, files))
    yield from _section("Columns", [FORMATS[reader.spec.format].note, "", *_columns(reader)])
    yield from _section("Rubrics", _rubrics(reader, manifest))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield from ("", f"## {title}", "", *lines)


def _sources(manifest: dict[str, Any]) -> Iterator[str]:
    yield from ("| label_source | labels | who |", "|---|---:|---|")
    for source, n in manifest["counts"]["source"].items():
        yield f"| {source} | {n:,} | {SOURCE_TEXTS[source]} |"
    if manifest["left_out"]:
        yield ""
        yield "Left out: " + "; ".join(f"{n:,} ({reason})" for reason, n in manifest["left_out"].items()) + "."
    yield ""
    yield "Raters are pseudonyms, the same for one person in every export of the workspace. A label rests on the grades in `grade_ids`;"
    yield "`overrides` tells where a person put another score in place of a grader's, and why."


def _files(reader: Reader, files: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from ("| file | split | rows |", "|---|---|---:|")
    for file in files:
        yield f"| {file['path']} | {file['split']} | {file['rows']:,} |"
    if len(reader.spec.shares) > 1:
        yield ""
        yield f"Split {reader.spec.split} with seed {reader.spec.seed}, by prompt: outputs of one prompt or with one text are in one split."
    yield ""
    yield "`manifest.json` has the spec, the counts and the sha256 of each file."


def _columns(reader: Reader) -> Iterator[str]:
    yield from ("| column | what |", "|---|---|")
    for column in COLUMNS:
        yield f"| {column.name} | {column.meaning} |"
        if column.name == "criteria" and reader.spec.format != "scalar-jsonl":
            yield "| criteria.KEY.label, .judge, .human, .weight | the same, a column each |"


def _rubrics(reader: Reader, manifest: dict[str, Any]) -> Iterator[str]:
    for task in reader.catalog.tasks:
        if task.slug not in manifest["counts"]["task"]:
            continue
        for rubric in (r for r in reader.catalog.rubrics.values() if r.task_id == task.id):
            low, high = rubric.scale
            yield f"- `{task.slug}` version {rubric.version}, {low:g} to {high:g}: " + ", ".join(
                f"`{c.key}` ({c.kind}, weight {c.weight:g}, {c.scale[0]:g} to {c.scale[1]:g})" for c in rubric.criteria
            )


def size_category(rows: int) -> str:
    return next((name for limit, name in SIZES if rows < limit), "10M<n<100M")
