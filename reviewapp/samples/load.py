"""Load the sample workspace through the importer, and have the code samples graded live.

Each folder here is a task's: files as an agent would hand them in, and samples.toml, which says for each
its variant, what it shows, and either a judge's scores written for the demo (ideas, reviews) or our own
label by reading and running it (code), which is the human side of the demo's calibration study. The papers that the sample
reviews cite go into the local corpus, so that their citations are checked without a network.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings

from graders import registry
from reviewapp.interchange.importer import import_file
from reviewapp.jobs.queue import enqueue
from reviewapp.models import Grader, Output, Task, Variant
from tasks.tools.corpus import Corpus
from tasks.tools.fill import fill_from_jsonl

FOLDER = Path(__file__).parent
PAPERS = FOLDER / "literature_review" / "papers.jsonl"
AUTHOR = "demo-author"
JUDGE = "sample-judge"


def load_samples() -> str:
    """Bring in the samples that are not there yet, and queue their gradings. Returns a line for a person."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for record in sample_records():
            file.write(orjson.dumps(record) + b"\n")
        file.flush()
        report = import_file(Path(file.name), sample=True, title="Samples written for the demo")
    fill_from_jsonl(Corpus(settings.DATA_DIR / "corpus.sqlite3"), PAPERS)
    queued = queue_gradings()
    return f"samples: {report.outputs_new} new outputs, {queued} gradings queued"


def queue_gradings() -> int:
    """One job for each sample and each of its task's code graders that has not graded it."""
    queued = 0
    for task in Task.objects.exclude(graders=[]):
        for plain in (g for g in registry.for_task(task.slug) if g.kind == Grader.Kind.CODE):
            grader = Grader.objects.get(name=plain.name, version=plain.version, sha256=plain.sha256)
            missing = Output.objects.filter(task=task, is_sample=True, is_latest=True).exclude(jobs__grader=grader)
            for output in missing.order_by("id"):
                enqueue("grade", output=output, grader=grader)
                queued += 1
    return queued


def sample_records() -> Iterator[dict[str, Any]]:
    """The samples as lines of an import file."""
    for folder in sorted(path.parent for path in FOLDER.glob("*/samples.toml")):
        told = tomllib.loads((folder / "samples.toml").read_text(encoding="utf-8"))
        prompts = dict(Variant.objects.filter(task__slug=folder.name, is_current=True).values_list("name", "prompt"))
        for sample in told["output"]:
            yield sample_record(folder, sample, prompts)


def sample_record(folder: Path, sample: dict[str, Any], prompts: dict[str, str]) -> dict[str, Any]:
    metadata = {"note": sample["note"], "planted_errors": sample.get("planted_errors", [])}
    return {
        "external_id": sample["external_id"],
        "task": folder.name,
        "variant": sample["variant"],
        "prompt": prompts.get(sample["variant"], ""),
        "model": "written for the demo",
        "content": (folder / sample["file"]).read_text(encoding="utf-8"),
        "format": "python" if sample["file"].endswith(".py") else "markdown",
        "metadata": {name: value for name, value in metadata.items() if value},
        "grades": [_judge_grade(sample)] if "judge" in sample else [_author_grade(sample)],
    }


def _judge_grade(sample: dict[str, Any]) -> dict[str, Any]:
    judge = sample["judge"]
    criteria = {
        key: {
            "score": row["score"],
            "rationale": row["rationale"],
            "evidence": [{"kind": "quote", "text": quote} for quote in row.get("quotes", [])],
        }
        for key, row in judge["criteria"].items()
    }
    return {"grader": JUDGE, "version": "1", "kind": "llm_judge", "rationale": judge.get("rationale", ""), "criteria": criteria}


def _author_grade(sample: dict[str, Any]) -> dict[str, Any]:
    """Our label, as a blind human grade: it was made before any grader ran."""
    label = sample["label"]
    criteria = {
        key: {"score": 10.0 if row["passed"] else 0.0, "rationale": row.get("rationale", ""), "evidence": _lines(row)}
        for key, row in label["criteria"].items()
    }
    grade = {"grader": "human", "version": "1", "kind": "human", "rater": AUTHOR, "mode": "blind", "criteria": criteria}
    return {**grade, "rationale": label.get("rationale", ""), **({} if label["runs"] else {"passed": False})}


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    if "line_start" not in row:
        return []
    return [{"kind": "static", "text": row.get("rationale", ""), "line_start": row["line_start"], "line_end": row["line_end"]}]
