"""Counts beside the filters: how many outputs there are, and of which tasks, states, verdicts, models and failures.

Up to MANY outputs the counts are exact and kept until something changes. Of more it is said that there are more, and
what is beside the facets is counted over the newest SAMPLE of them and kept for a minute: no page counts everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from django.core.cache import cache
from django.db.models import QuerySet

from reviewapp.models import Output, Task, User
from reviewapp.outputs.filters import Choices, Filters
from reviewapp.outputs.queries import MANY

SAMPLE = 5_000
SHOWN = 6
SHORT_S = 60
LONG_S = 3600
FIELDS = ("task_id", "label_state", "label_passed", "model", "failure_category", "label_source")
VERDICT_WORDS = {True: "pass", False: "fail", None: "undecided"}


@dataclass(frozen=True)
class Counts:
    """Of the outputs that some filters keep. `total` is exact unless `is_more`, then there are more than that."""

    total: int
    is_more: bool
    by_task: Mapping[int, int]
    by_label: Mapping[str, int]
    by_verdict: Mapping[str, int]
    by_model: Mapping[str, int]
    by_failure: Mapping[str, int]

    @property
    def is_sampled(self) -> bool:
        """Whether the counts of the facets are of the newest outputs only."""
        return sum(self.by_task.values()) < self.total or self.is_more


@dataclass(frozen=True)
class Facet:
    title: str
    links: Sequence[tuple[str, int, str]]  # text, count, query string


def count(filters: Filters, outputs: QuerySet[Output], user: User, choices: Choices) -> Counts:
    """Of the outputs that these filters keep. One query when they are few, at most three; none when they are known."""
    who = user.pk if filters.reviewer == "me" else 0
    name = sha256(f"{filters.query}:{who}".encode()).hexdigest()
    long, short = f"outputs:counts:{choices.revision}:{name}", f"outputs:counts:short:{name}"
    found: Counts | None = cache.get(long) or cache.get(short)
    if found is None:
        found = _count(filters, outputs)
        # Flags and the index of the search change without a task's revision.
        is_short = found.is_sampled or bool(filters.q or filters.flagged)
        cache.set(short if is_short else long, found, SHORT_S if is_short else LONG_S)
    return found


def _count(filters: Filters, outputs: QuerySet[Output]) -> Counts:
    newest = outputs.order_by("-id").values_list(*FIELDS)
    rows = list(newest[:SAMPLE])
    total = len(rows) if len(rows) < SAMPLE else outputs[: MANY + 1].count()
    is_large = total > MANY
    if not is_large and total > SAMPLE:
        rows += newest[SAMPLE:MANY]
    is_exact = not is_large or not replace(filters, task=())
    return Counts(
        total=(_count_whole_tasks(filters) if is_large else total) if is_exact else MANY,
        is_more=not is_exact,
        by_task=Counter(row[0] for row in rows),
        by_label=Counter(row[1] for row in rows),
        by_verdict=Counter(VERDICT_WORDS[row[2]] for row in rows if row[5]),
        by_model=Counter(row[3] for row in rows if row[3]),
        by_failure=Counter(row[4] for row in rows if row[4]),
    )


def _count_whole_tasks(filters: Filters) -> int:
    """Read off an index, and kept for a minute."""
    outputs = Output.objects.filter(is_latest=True)
    if filters.task:
        outputs = outputs.filter(task__in=Task.objects.filter(slug__in=filters.task))
    return outputs.count()


def facets(filters: Filters, counts: Counts, choices: Choices, *, is_blind: bool, hides_labels: bool = False) -> list[Facet]:
    """The filters that would split what is shown. Those that tell the verdicts, or the labels, are left out while hidden."""
    tasks = {task.pk: task for task in choices.tasks}
    labels = dict(Output.LabelState.choices)
    found = []
    if not filters.task:
        links = [(tasks[pk].title, n, replace(filters, task=(tasks[pk].slug,))) for pk, n in _top(counts.by_task) if pk in tasks]
        found.append(("Task", links))
    if not filters.label and not hides_labels:
        links = [(labels[state], n, replace(filters, label=state)) for state, n in _top(counts.by_label) if state != "labelled"]
        if people := sum(n for state, n in counts.by_label.items() if state != "none"):
            links.insert(0, ("Labelled by people", people, replace(filters, label="labelled")))
        found.append(("Label", links))
    if not filters.passed and not is_blind:
        found.append(("Verdict", [(word, n, replace(filters, passed=word)) for word, n in _top(counts.by_verdict)]))
    if not filters.model:
        found.append(("Model", [(model, n, replace(filters, model=model)) for model, n in _top(counts.by_model)]))
    if not filters.failure and not is_blind:
        found.append(("Failure", [(name, n, replace(filters, failure=name)) for name, n in _top(counts.by_failure)]))
    # A facet with one value would change nothing.
    return [Facet(title, [(text, n, to.query) for text, n, to in links]) for title, links in found if len(links) > 1]


def _top(counts: Mapping) -> list[tuple]:
    return Counter(counts).most_common(SHOWN)
