"""From filters to outputs: the one place that makes a query of them, for the page, datasets and the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from django.core.cache import cache
from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.functions import Left

from reviewapp.models import Flag, Grade, Grader, Output, OutputBody, Task, User, Variant
from reviewapp.outputs import search
from reviewapp.outputs.filters import Filters
from reviewapp.outputs.paging import Unindexed

# A filter that keeps more rows than this is checked row by row in the order of the page; up to this many are found
# by an index and sorted. Either way a page reads few rows.
MANY = 20_000
MANY_MAX_AGE_S = 60
VERDICT = {"pass": True, "fail": False, "undecided": None}
SCORE_FIELD = {"label": "label_score", "judge": "judge_score", "human": "human_score"}
LIST_FIELDS = (
    "id", "external_id", "version", "model", "length", "is_sample", "content_missing", "created_at", "judge_score", "judge_passed",
    "human_score", "human_count", "label_state", "label_source", "label_score", "label_passed", "disagreement", "failure_category",
    "task__slug", "task__title", "task__rubric__scale_low", "task__rubric__scale_high", "variant__name", "variant__title",
)  # fmt: skip


def filtered(filters: Filters, user: User | None = None) -> QuerySet[Output]:
    """The latest version of each output that the filters keep, in no order. `user` is who "me" is."""
    outputs = Output.objects.filter(is_latest=True).order_by()
    outputs = _by_names(outputs, filters)
    outputs = _by_grades(outputs, filters, user)
    outputs = outputs.filter(*_by_summary(filters))
    if filters.ids:
        outputs = outputs.filter(pk__in=filters.ids)
    if filters.sample:
        outputs = outputs.filter(is_sample=filters.sample == "yes")
    if filters.flagged:
        is_flagged = Q(pk__in=Flag.objects.filter(resolved_at__isnull=True).values("output_id"))
        outputs = outputs.filter(is_flagged if filters.flagged == "yes" else ~is_flagged)
    ids = search.matching_ids(filters.q)
    return _keep(outputs, "id", ids) if ids else outputs


def for_list(outputs: QuerySet[Output]) -> QuerySet[Output]:
    """With what a row of the list shows, and no long text."""
    return outputs.select_related("task__rubric", "variant").only(*LIST_FIELDS)


def graded_by(user: User, rows: Sequence[Output]) -> set[int]:
    """Which of these rows this person has graded."""
    mine = Grade.objects.filter(rater=user, output__in=[row.pk for row in rows], retraction__isnull=True)
    return set(mine.values_list("output_id", flat=True))


def snippets(rows: Sequence[Output], text: str) -> dict[int, str]:
    """output id -> where the search is found in its content."""
    bodies = OutputBody.objects.filter(output__in=[row.pk for row in rows])
    return {pk: search.snippet(content, text) for pk, content in bodies.values_list("output_id", Left("content", search.CHARS))}


def _by_names(outputs: QuerySet[Output], filters: Filters) -> QuerySet[Output]:
    tasks: list[int] = []
    if filters.task:
        tasks = list(Task.objects.filter(slug__in=filters.task).order_by("pk").values_list("pk", flat=True))
        # Of a single task there is an index for every order.
        outputs = outputs.filter(task_id=tasks[0]) if len(tasks) == 1 else _keep(outputs, "task_id", tasks)
    if filters.variant:
        variants = Variant.objects.filter(name=filters.variant, **({"task_id__in": tasks} if tasks else {}))
        outputs = _keep(outputs, "variant_id", list(variants.order_by("pk").values_list("pk", flat=True)))
    if filters.run is not None:
        outputs = _keep(outputs, "run_id", [filters.run])
    if filters.model:
        outputs = _keep(outputs, "model", [filters.model])
    if filters.failure:
        outputs = _keep(outputs, "failure_category", [filters.failure])
    if filters.label:
        outputs = _keep(outputs, "label_state", _label_states(filters.label), tasks)
    return outputs


def _label_states(label: str) -> list[str]:
    """Labelled by people in whatever way, or one state."""
    states = Output.LabelState
    return [states.LABELLED, states.CONFLICT, states.ADJUDICATED] if label == states.LABELLED else [label]


def _by_grades(outputs: QuerySet[Output], filters: Filters, user: User | None) -> QuerySet[Output]:
    if filters.grader:
        graders = list(Grader.objects.filter(name=filters.grader).order_by("pk").values_list("pk", flat=True))
        outputs = _with_grade(outputs, Grade.objects.filter(grader_id__in=graders), f"grader:{graders}")
    if filters.reviewer:
        name = user.username if user and filters.reviewer == "me" else filters.reviewer
        outputs = _with_grade(outputs, Grade.objects.filter(rater_name=name, retraction__isnull=True), f"reviewer:{name}")
    return outputs


def _by_summary(filters: Filters) -> list[Q]:
    """Conditions on what labels.py made of the grades."""
    found = []
    if filters.passed:
        found.append(_verdict("label", filters.passed))
    if filters.judge:
        found.append(_verdict("judge", filters.judge))
    score = SCORE_FIELD[filters.score_of or "label"]
    if filters.score_min is not None:
        found.append(Q(**{f"{score}__gte": filters.score_min}))
    if filters.score_max is not None:
        found.append(Q(**{f"{score}__lte": filters.score_max}))
    if filters.disagreement_min is not None:
        found.append(Q(disagreement__gte=filters.disagreement_min))
    return found


def _verdict(who: str, verdict: str) -> Q:
    """Undecided is said of an output that was graded and has no verdict; without any grade it has no label."""
    if verdict == "undecided":
        by_judge = Q(judge_score__isnull=False) | Q(label_source__in=("judge", "code", "calibrated_judge"))
        return Q(**{f"{who}_passed__isnull": True}) & (by_judge if who == "judge" else ~Q(label_source=""))
    return Q(**{f"{who}_passed": VERDICT[verdict]})


def _keep(outputs: QuerySet[Output], field: str, values: Sequence[Any] | RawSQL, tasks: Sequence[int] = ()) -> QuerySet[Output]:
    """Rows whose field is one of these values; `tasks` when its index begins with the task.

    SQLite has no statistics of our tables: with an index on the field it would use that one and then sort, however
    many rows there are. PostgreSQL knows better.
    """
    rows = {f"{field}__in": values}
    scope = {"task_id__in": tasks} if tasks else {}
    if connection.vendor == "sqlite" and _is_many(Output.objects.filter(is_latest=True, **rows, **scope), f"{rows}{scope}"):
        return outputs.alias(**{f"plain_{field}": Unindexed(F(field))}).filter(**{f"plain_{field}__in": values})
    return outputs.filter(**rows)


def _with_grade(outputs: QuerySet[Output], grades: QuerySet[Grade], name: str) -> QuerySet[Output]:
    """Outputs that have one of these grades: looked up row by row, or found first when they are not many."""
    if _is_many(grades, name):
        return outputs.filter(Exists(grades.filter(output=OuterRef("pk"))))
    return outputs.filter(pk__in=grades.values("output_id"))


def _is_many(rows: QuerySet[Any], name: str) -> bool:
    key = f"outputs:many:{sha256(name.encode()).hexdigest()}"
    found: bool | None = cache.get(key)
    if found is None:
        found = rows.order_by()[: MANY + 1].count() > MANY
        cache.set(key, found, MANY_MAX_AGE_S)
    return found
