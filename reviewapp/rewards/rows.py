"""Rows of an export: one an output (its latest version) that has a label by the policy, in constant memory.

Outputs are read by key in the order of task and output_id, a batch at a time, and so are their grades, scores and
texts; no model instance is made. An output is written as it was when its batch was read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import orjson
from django.db import connection
from django.db.models import Model, QuerySet, Window
from django.db.models.functions import Mod, RowNumber
from django.utils.crypto import salted_hmac

from reviewapp.models import CriterionScore, Grade, OutputBody, Prompt, Retraction
from reviewapp.rewards.calibration import CALIBRATED_POLICY, Calibration
from reviewapp.rewards.catalog import Catalog, RubricFacts, TaskFacts, read_catalog
from reviewapp.rewards.columns import Table
from reviewapp.rewards.labels import GradeFact, Label, choose_label, human_label, judge_label
from reviewapp.rewards.selection import selected_outputs
from reviewapp.rewards.spec import Spec
from reviewapp.rewards.splits import SharedTexts, Splitter, prompt_key

BATCH = 4000
# Outputs that show which judges a task has.
LOOKED_AT = 50
# Characters of content held at once, so that a batch of very long outputs is read in parts.
CHUNK_CHARS = 4_000_000
OUTPUT_FIELDS = (
    "id", "external_id", "version", "variant_id", "model", "prompt_id", "prompt__sha256", "length", "content_missing",
    "is_sample", "metadata",
)  # fmt: skip
GRADE_FIELDS = (
    "id", "output_id", "grader_id", "rubric_id", "mode", "rater_name", "overall", "passed", "supersedes_id",
)  # fmt: skip
SCORE_FIELDS = ("grade_id", "criterion_id", "score")
NO_BODY = (None, "", "")
NO_LABEL, UNDECIDED = "no label by this policy", "undecided: no score and no verdict"
Row = dict[str, Any]
# grade id -> criterion key -> score, or value if categorical, or None
Scores = dict[int, dict[str, Any]]


class Span(NamedTuple):
    """The outputs of one task whose external id is above `after` and not above `upto` (None: no bound)."""

    task_id: int
    after: str | None
    upto: str | None


@dataclass(slots=True)
class Labelled:
    """An output with its labels, before its texts are read."""

    task: TaskFacts
    output: tuple[Any, ...]
    label: Label
    human: Label
    judge: Label
    split: str


@dataclass
class Counts:
    """What went into an export, and what was left out and why."""

    outputs: int = 0
    rows: int = 0
    samples: int = 0
    without_content: int = 0
    source: Counter[str] = field(default_factory=Counter)
    split: Counter[str] = field(default_factory=Counter)
    task: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, task: TaskFacts, batch: Sequence[Labelled]) -> None:
        self.rows += len(batch)
        self.samples += sum([row.output[9] for row in batch])
        self.without_content += sum([row.output[8] != "" for row in batch])
        self.source.update([row.label.source for row in batch])
        self.split.update([row.split for row in batch])
        self.task[task.slug] += len(batch)

    def merge(self, told: Mapping[str, Any]) -> None:
        """Add what another reader of the same export counted, as its `to_json` told it."""
        for name, value in told.items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
            else:
                getattr(self, name).update(value)

    def to_json(self) -> dict[str, Any]:
        return {part.name: getattr(self, part.name) for part in fields(self)}


class Reader:
    """Reads one export's rows. `counts` is complete once the rows have been read to their end."""

    def __init__(self, spec: Spec, *, catalog: Catalog | None = None, max_outputs: int | None = None) -> None:
        self.spec = spec
        self.catalog = catalog or read_catalog(spec.tasks)
        self.table = Table(self.catalog.criteria)
        self.outputs = selected_outputs(spec)
        self.counts = Counts()
        self.calibration = Calibration(self.catalog.graders) if spec.policy == CALIBRATED_POLICY else None
        self.splitter = Splitter(spec.shares, spec.seed)
        self._has_splits = len(spec.shares) > 1
        self._max_outputs = max_outputs
        self._pseudonyms: dict[str, str] = {}
        # The grades of the batch at hand, by id.
        self._grades: dict[int, tuple[Any, ...]] = {}

    def find_shared_texts(self, on_progress: Callable[[int], None] = lambda done: None) -> None:
        """Read all texts once and keep prompts that share one on one side. Needless for a single split."""
        if not self._has_splits:
            return
        shared, done = SharedTexts(), 0
        for task, batch in self._batches():
            keys = {output[0]: self._prompt_key(task, output) for output in batch}
            for chunk in _chunks(batch):
                for output_id, content in _bodies([output[0] for output in chunk], "output_id", "content"):
                    shared.add(keys[output_id], content)
            done += len(batch)
            on_progress(done)
        self.splitter = Splitter(self.spec.shares, self.spec.seed, shared.roots())

    def spans(self, size: int) -> Iterator[Span]:
        """Together all outputs, in their order, `size` in each; those that are added meanwhile fall into one, too."""
        for task in self.catalog.tasks:
            numbered = self.outputs.filter(task_id=task.id).annotate(place=Window(RowNumber(), order_by="external_id"))
            bounds = numbered.annotate(rest=Mod("place", size)).filter(rest=0).order_by("place").values_list("external_id", flat=True)
            edges = [None, *bounds, None]
            yield from (Span(task.id, after, upto) for after, upto in pairwise(edges))

    def fit_ahead(self) -> Iterator[None]:
        """Fit the calibrators that labels will ask for, one a step, the last task first: by the judges of its first outputs."""
        for task in reversed(self.catalog.tasks) if self.calibration else ():
            first = fetch(self.outputs.filter(task_id=task.id).order_by("external_id").values_list("id")[:LOOKED_AT])
            facts = self._read_grades([output_id for (output_id,) in first])
            judges = [judge_label(of_output, task.primary_grader) for of_output in facts.values()]
            for grader_id in dict.fromkeys(self._grades[judge.grade_ids[0]][2] for judge in judges if judge.source == "judge"):
                self.calibration.fit_ahead(task.slug, grader_id)
                yield

    def chunks(self, span: Span | None = None) -> Iterator[list[Labelled]]:
        """Labelled outputs (of the span, else all) whose texts fit in memory together, for `build`."""
        for batch in self.labelled(span):
            yield from _chunks(batch, of=lambda row: row.output)

    def labelled(self, span: Span | None = None) -> Iterator[list[Labelled]]:
        """Batches of the outputs that have a label; the others are counted and left out."""
        for task, outputs in self._batches(span):
            facts = self._read_grades([output[0] for output in outputs])
            self.counts.outputs += len(outputs)
            batch, no_label, undecided = [], 0, 0
            for output in outputs:
                row = self._label(task, output, facts.get(output[0], ()))
                if not row.label.source:
                    no_label += 1
                elif row.label.score is None and row.label.passed is None:
                    undecided += 1
                else:
                    batch.append(row)
            self.counts.add(task, batch)
            self.counts.left_out += Counter({NO_LABEL: no_label, UNDECIDED: undecided})  # keeps what is above zero
            yield batch

    def build(self, batch: Sequence[Labelled]) -> Iterator[Row]:
        """Rows as they are written, one at a time. The grades of the batch must be the last ones read."""
        ids = [row.output[0] for row in batch]
        bodies = {body[0]: body for body in _bodies(ids, "output_id", "content", "reference")}
        prompts = dict(rows_where(Prompt, "id", {row.output[5] for row in batch} - {None}, ("id", "text")))
        scores = self._read_scores({i for row in batch for i in (*row.human.grade_ids, *row.judge.grade_ids)})
        overrides = self._overrides(batch, scores)
        for row in batch:
            yield self._row(row, prompts, bodies.get(row.output[0], NO_BODY), scores, overrides)

    # --- reading ---

    def _batches(self, span: Span | None = None) -> Iterator[tuple[TaskFacts, list[tuple[Any, ...]]]]:
        left = self._max_outputs
        for task in self.catalog.tasks:
            if span and span.task_id != task.id:
                continue
            outputs = self.outputs.filter(task_id=task.id).order_by("external_id")
            if span and span.upto is not None:
                outputs = outputs.filter(external_id__lte=span.upto)
            last: str | None = span.after if span else None
            while left is None or left > 0:
                size = BATCH if left is None else min(BATCH, left)
                after = outputs if last is None else outputs.filter(external_id__gt=last)
                batch = fetch(after.values_list(*OUTPUT_FIELDS)[:size])
                if batch:
                    yield task, batch
                    last = batch[-1][1]
                    left = None if left is None else left - len(batch)
                if len(batch) < size:
                    break

    def _read_grades(self, output_ids: Sequence[int]) -> dict[int, list[GradeFact]]:
        graders = self.catalog.graders
        self._grades = {}
        grades = rows_where(Grade, "output_id", output_ids, GRADE_FIELDS)
        ids = [grade[0] for grade in grades]
        # Few grades are ever retracted: all between these two, rather than each one looked up.
        between = Retraction.objects.filter(grade_id__gte=min(ids, default=0), grade_id__lte=max(ids, default=0))
        retracted = set(between.values_list("grade_id", flat=True))
        facts: dict[int, list[GradeFact]] = defaultdict(list)
        for grade in grades:
            grade_id, output_id, grader_id, _, mode, rater, overall, passed, _ = grade
            self._grades[grade_id] = grade
            if grade_id not in retracted:
                name, version, kind = graders[grader_id]
                verdict = None if passed is None else bool(passed)
                facts[output_id].append(GradeFact(grade_id, output_id, name, kind, mode, rater, overall, verdict, "", version))
        return facts

    def _read_scores(self, grade_ids: set[int]) -> Scores:
        keys = self.catalog.criterion_keys
        scores: Scores = defaultdict(dict)
        if all(self.table.criteria.values()):  # no categories
            for grade_id, criterion_id, score in rows_where(CriterionScore, "grade_id", grade_ids, SCORE_FIELDS):
                scores[grade_id][keys[criterion_id]] = score
            return scores
        for grade_id, criterion_id, score, value in rows_where(CriterionScore, "grade_id", grade_ids, (*SCORE_FIELDS, "value")):
            scores[grade_id][keys[criterion_id]] = score if score is not None else value or None
        return scores

    def _label(self, task: TaskFacts, output: tuple[Any, ...], facts: Sequence[GradeFact]) -> Labelled:
        human, judge = human_label(facts), judge_label(facts, task.primary_grader)
        split = self.splitter.split_of(self._prompt_key(task, output)) if self._has_splits else self.spec.shares[0][0]
        label = choose_label(human, judge, self.spec.policy)
        if label.source == "judge" and self.calibration:
            label = self.calibration.label(label, task.slug, self._grades[label.grade_ids[0]][2])
        return Labelled(task, output, label, human, judge, split)

    def _prompt_key(self, task: TaskFacts, output: tuple[Any, ...]) -> int:
        return prompt_key(output[6], f"{task.slug}/{output[1]}")

    # --- making rows ---

    def _row(self, row: Labelled, prompts: dict[int, str], texts: Sequence[str], scores: Scores, overrides: dict[int, list[Row]]) -> Row:
        output_id, external_id, version, variant_id, model, prompt_id, _, _, content_missing, is_sample, meta = row.output
        label, human, judge = row.label, row.human, row.judge
        basis = [self._grades[i] for i in label.grade_ids]
        rubric = self.catalog.rubrics[basis[-1][3]]
        judge_name, judge_version = self.catalog.graders[self._grades[judge.grade_ids[0]][2]][:2] if judge.source else (None, None)
        return {
            "output_id": external_id,
            "id": output_id,
            "version": version,
            "task": row.task.slug,
            "variant": self.catalog.variants[variant_id],
            "model": model,
            "prompt": prompts.get(prompt_id),
            "content": texts[1],
            "content_missing": content_missing or None,
            "reference": texts[2] or None,
            "label_score": label.score,
            "label_score_01": None if label.score is None else _on_unit_scale(label.score, rubric.scale),
            "label_passed": label.passed,
            "label_source": label.source,
            "label_sd": label.sd,
            "n_raters": label.n_raters,
            "raters": [self.pseudonym(grade[5]) for grade in basis if grade[5]],
            "modes": [basis[0][4]] if len(basis) == 1 else sorted({grade[4] for grade in basis}),
            "grade_ids": list(label.grade_ids),
            "rubric_version": rubric.version,
            "rubric_sha256": rubric.sha256,
            "judge": judge_name,
            "judge_version": judge_version,
            "judge_score": judge.score,
            "judge_passed": judge.passed,
            "human_score": human.score,
            "is_sample": bool(is_sample),
            "criteria": _criteria(rubric, label is human, [scores.get(i, {}) for i in human.grade_ids], judge, scores),
            "overrides": overrides.get(output_id, []),
            "meta": orjson.loads(meta),
            "split": row.split,
        }

    def pseudonym(self, name: str) -> str:
        """The same for the same person in every export of this workspace, and of no use without its secret key."""
        if name not in self._pseudonyms:
            self._pseudonyms[name] = "r-" + salted_hmac("touchstone.export.rater", name, algorithm="sha256").hexdigest()[:8]
        return self._pseudonyms[name]

    def _overrides(self, batch: Sequence[Labelled], scores: Scores) -> dict[int, list[Row]]:
        """output id -> where the people's grades of the label put another score in place of a grader's."""
        replaced = {}
        for row in batch:
            for grade_id in row.label.grade_ids if row.label is row.human else ():
                if origin := self._replaced_by(grade_id):
                    replaced[grade_id] = origin
        if not replaced:
            return {}
        missing = set(replaced.values()) - scores.keys()
        scores = {**scores, **self._read_scores(missing)} if missing else scores
        told = dict(Grade.objects.filter(id__in=list(replaced)).values_list("id", "created_at")), _read_reasons(replaced)
        found: dict[int, list[Row]] = defaultdict(list)
        for grade_id, origin in sorted(replaced.items()):
            found[self._grades[grade_id][1]] += self._override_rows(grade_id, origin, scores, *told)
        return found

    def _replaced_by(self, grade_id: int) -> int | None:
        """The grader's grade at the start of the chain that this person's grade supersedes."""
        grade = self._grades[grade_id]
        while grade and grade[4] != Grade.Mode.AUTOMATIC:
            grade = self._grades.get(grade[8])
        return grade[0] if grade else None

    def _override_rows(self, grade_id: int, origin: int, scores: Scores, times: dict[int, Any], reasons: dict[int, Any]) -> list[Row]:
        grade, before, after = self._grades[grade_id], scores.get(origin, {}), scores.get(grade_id, {})
        name, version, _ = self.catalog.graders[self._grades[origin][2]]
        order = [key for key, _ in self.catalog.rubrics[grade[3]].weights]
        return [
            {
                "criterion": key,
                "from": before.get(key),
                "to": after[key],
                "reason": reasons[grade_id].get(key) or reasons[grade_id][""],
                "grader": name,
                "grader_version": version,
                "by": self.pseudonym(grade[5]),
                "mode": grade[4],
                "at": times[grade_id].isoformat().replace("+00:00", "Z"),
                "supersedes": grade[8],
                "grade": grade_id,
            }
            for key in order
            if key in after and after[key] != before.get(key)
        ]


def _criteria(rubric: RubricFacts, is_human: bool, people: list[dict[str, Any]], judge: Label, scores: Scores) -> dict[str, Row]:
    judged = scores.get(judge.grade_ids[0], {}) if judge.source else {}
    if len(people) == 1:
        said = people[0]
    else:
        said = {key: _mean_or_majority([p[key] for p in people if p.get(key) is not None]) for key, _ in rubric.weights}
    label = said if is_human else judged
    return {key: {"label": label.get(key), "judge": judged.get(key), "human": said.get(key), "weight": w} for key, w in rubric.weights}


def _mean_or_majority(answers: list[Any]) -> Any:
    """The mean of scores; of categories the one that more than half gave."""
    if not answers:
        return None
    if not isinstance(answers[0], str):
        return fmean(answers)
    value, n = Counter(answers).most_common(1)[0]
    return value if 2 * n > len(answers) else None


def _on_unit_scale(score: float, scale: tuple[float, float]) -> float:
    return round((score - scale[0]) / (scale[1] - scale[0]), 6)


def _read_reasons(grade_ids: Any) -> dict[int, dict[str, str]]:
    """grade id -> criterion key -> what the person wrote about it; under "" what they wrote about the whole."""
    reasons: dict[int, dict[str, str]] = {
        pk: {"": text} for pk, text in Grade.objects.filter(id__in=list(grade_ids)).values_list("id", "rationale")
    }
    rows = CriterionScore.objects.filter(grade_id__in=list(grade_ids)).order_by().values_list("grade_id", "criterion__key", "rationale")
    for grade_id, key, text in rows:
        reasons[grade_id][key] = text
    return reasons


def _bodies(output_ids: Sequence[int], *fields: str) -> list[tuple[Any, ...]]:
    return rows_where(OutputBody, "output_id", output_ids, fields)


def _chunks(batch: Sequence[Any], of: Any = lambda output: output) -> Iterator[list[Any]]:
    """Parts of a batch whose texts fit in memory together."""
    chunk: list[Any] = []
    chars = 0
    for item in batch:
        length = of(item)[7]
        if chunk and chars + length > CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
        chunk.append(item)
        chars += length
    if chunk:
        yield chunk


def fetch(query: QuerySet[Any, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows as the database gives them (SQLite: flags as 0 and 1; JSON as text), in half the time of the ORM."""
    return _run(*query.query.sql_with_params())


def rows_where(model: type[Model], column: str, ids: Iterable[int], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows whose column is one of thousands of ids, which go as one parameter and lead the join. No id twice."""
    names = ", ".join(f"found.{name}" for name in columns)
    wanted: Any = sorted(ids)
    if connection.vendor == "postgresql":
        join = "unnest(%s::bigint[]) AS wanted(value) JOIN"
    else:
        join, wanted = "json_each(%s) AS wanted CROSS JOIN", str(wanted)  # SQLite keeps the order of a cross join
    sql = f"SELECT {names} FROM {join} {model._meta.db_table} AS found ON found.{column} = wanted.value"  # noqa: S608 - our own names
    return _run(sql, [wanted])


def _run(sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()
