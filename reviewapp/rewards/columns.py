"""The columns of a row, in the order they are written, each with what it means. docs/exports.md says the same at length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "number", "flag", "texts", "integers", "json"]
PARTS = ("label", "judge", "human", "weight")


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    meaning: str


COLUMNS = (
    Column("output_id", "text", "the output's own id, unique within its task"),
    Column("id", "integer", "the row's number in the workspace it comes from"),
    Column("version", "integer", "version of the output: other content under the same output_id is a higher version"),
    Column("task", "text", "the task's slug"),
    Column("variant", "text", "name of the prompt variant"),
    Column("model", "text", "the model that wrote the content"),
    Column("prompt", "text", "the prompt as it was sent; null if the output came without one"),
    Column("content", "text", "what the model handed in (the completion)"),
    Column("content_missing", "text", "why there is no content; null if there is"),
    Column("reference", "text", "context that reviewers saw beside the output; null if none"),
    Column("label_score", "number", "the label, on the rubric's scale; null if the label is a verdict only"),
    Column("label_score_01", "number", "the same, scaled to [0, 1]"),
    Column("label_passed", "flag", "the label's verdict; null if undecided or if raters tie"),
    Column("label_source", "text", "who the label comes from: adjudicated, human, calibrated_judge, judge or code"),
    Column("label_sd", "number", "standard deviation over raters (null under two), or of people about a calibrated label; on the scale"),
    Column("n_raters", "integer", "how many raters (or graders) the label rests on"),
    Column("raters", "texts", "their pseudonyms; empty if the label is a grader's"),
    Column("modes", "texts", "how those grades were given: blind, assisted, override, adjudication or automatic"),
    Column("grade_ids", "integers", "the grades that the label rests on"),
    Column("rubric_version", "integer", "version of the rubric that the label was given by"),
    Column("rubric_sha256", "text", "hash of that rubric"),
    Column("judge", "text", "name of the judge or code grader whose scores stand beside; null if none graded it"),
    Column("judge_version", "text", "its version"),
    Column("judge_score", "number", "its score, on the rubric's scale"),
    Column("judge_passed", "flag", "its verdict"),
    Column("human_score", "number", "what people said, on the rubric's scale; null if nobody reviewed it"),
    Column("is_sample", "flag", "true for outputs written for the demo: not for training"),
    Column("criteria", "json", "criterion -> label, judge, human (scores on the criterion's scale) and weight"),
    Column("overrides", "json", "where a person put another score in place of a grader's: criterion, from, to, reason, who, when"),
    Column("meta", "json", "what the import gave as metadata"),
    Column("split", "text", "train, validation or test"),
)
NAMES = tuple(column.name for column in COLUMNS)


@dataclass(frozen=True)
class Table:
    """The columns of one export: those of every export, and the criteria of its tasks (key -> numeric?)."""

    criteria: dict[str, bool]

    def flat(self, *, criteria_json: bool) -> Iterator[tuple[str, Kind]]:
        """(name, kind) with `criteria` spread over columns, for formats that are tables."""
        for column in COLUMNS:
            if column.name != "criteria":
                yield column.name, column.kind
                continue
            if criteria_json:
                yield "criteria_json", "json"
            for key, is_numeric in self.criteria.items():
                for part in PARTS:
                    yield f"criteria.{key}.{part}", "number" if is_numeric or part == "weight" else "text"

    def flat_values(self, row: dict[str, Any], *, criteria_json: bool) -> list[Any]:
        """The row's values in that order; lists and dicts are still lists and dicts."""
        values: list[Any] = []
        for name in NAMES:
            if name != "criteria":
                values.append(row[name])
                continue
            given = row["criteria"]
            if criteria_json:
                values.append(given)
            for key in self.criteria:
                values.extend(_parts(given.get(key)))
        return values


def _parts(given: dict[str, Any] | None) -> Iterable[Any]:
    return given.values() if given else (None, None, None, None)
