"""How far runs are: counts by state, rate, time left, spend, errors. Counted from their jobs and calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum
from django.utils import timezone

from reviewapp.models import Job, LlmCall, Run

State = Job.State
KINDS = (Run.Kind.ROLLOUT, Run.Kind.GRADE)
PAGE = 30
WINDOW_S = 60.0
SLOW_START_S = 10
MOST_ERRORS = 8


@dataclass(frozen=True)
class Spend:
    """`unpriced`: calls of models without a known price, which are not in `cost_usd`."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0


@dataclass(frozen=True)
class Progress:
    """`recent`: units that ended within the last minute. `gradings`: of a run of rollouts, (ended, all there are) of its gradings."""

    run: Run
    counts: dict[str, int] = field(default_factory=dict)
    spend: Spend = field(default_factory=Spend)
    started_at: datetime | None = None
    ended_at: datetime | None = None
    recent: int = 0
    gradings: tuple[int, int] = (0, 0)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def n_open(self) -> int:
        return self.counts.get("queued", 0) + self.counts.get("running", 0)

    @property
    def n_ended(self) -> int:
        return self.total - self.n_open - self.counts.get("paused", 0)

    @property
    def n_rollouts(self) -> tuple[int, int]:
        """(ended, all)."""
        return self.n_ended - self.gradings[0], self.total - self.gradings[1]

    @property
    def n_coming(self) -> int:
        """Gradings that the rollouts which have not ended will ask for."""
        ended, total = self.n_rollouts
        return (total - ended) * len(self.run.arguments.get("grader_ids", ()))

    @property
    def n_planned(self) -> int:
        return self.total + self.n_coming

    @property
    def is_open(self) -> bool:
        return self.n_open > 0

    @property
    def word(self) -> str:
        """The state of the whole run, in a word or two."""
        counts = self.counts
        if counts.get("running"):
            return "pausing" if counts.get("paused") else "running"
        if counts.get("queued"):
            return "waiting"
        if counts.get("paused"):
            return "paused"
        if counts.get("failed"):
            return "failed" if not counts.get("done") else "some failed"
        if counts.get("cancelled"):
            return "cancelled"
        return "done" if self.total else "empty"

    @property
    def per_minute(self) -> float:
        """Units a minute: of the last minute, or of the whole time where that is shorter or over."""
        if self.started_at is None or not self.n_ended:
            return 0.0
        now = timezone.now()
        age = (now - self.started_at).total_seconds()
        if self.is_open and self.recent and age > WINDOW_S:
            return 60 * self.recent / WINDOW_S
        until = now if self.is_open else self.ended_at or now
        return 60 * self.n_ended / max(1.0, (until - self.started_at).total_seconds())

    @property
    def time_left_s(self) -> float | None:
        return 60 * (self.n_open + self.n_coming) / self.per_minute if self.is_open and self.per_minute else None

    @property
    def elapsed_s(self) -> float:
        began = self.started_at or self.run.created_at
        until = timezone.now() if self.is_open else self.ended_at or timezone.now()
        return max(0.0, (until - began).total_seconds())

    @property
    def is_waiting_long(self) -> bool:
        """Work is queued, none is done, and no worker seems to look."""
        waits = (timezone.now() - self.run.created_at).total_seconds()
        return bool(self.counts.get("queued")) and not self.counts.get("running") and not self.recent and waits > SLOW_START_S


@dataclass(frozen=True)
class Reason:
    """Why units failed, how many, and one of these jobs."""

    text: str
    n: int
    job: int


def progress_of(runs: Iterable[Run]) -> list[Progress]:
    """Two queries for any number of runs."""
    runs = list(runs)
    since = timezone.now() - timedelta(seconds=WINDOW_S)
    ended = Q(state__in=(State.DONE, State.FAILED))
    states = {state: Count("id", filter=Q(state=state)) for state in State.values}
    rows = (
        Job.objects.filter(run__in=runs)
        .order_by()
        .values("run_id")
        .annotate(
            **states,
            started=Min("started_at"),
            ended=Max("finished_at"),
            recent=Count("id", filter=ended & Q(finished_at__gte=since)),
            gradings=Count("id", filter=Q(kind=Job.Kind.GRADE)),
            graded=Count("id", filter=Q(kind=Job.Kind.GRADE, state__in=(State.DONE, State.FAILED, State.CANCELLED))),
        )
    )
    found = {row["run_id"]: row for row in rows}
    spends = spend_of([run.scope for run in runs if run.scope])
    return [_progress(run, found.get(run.pk), spends.get(run.scope, Spend())) for run in runs]


def _progress(run: Run, row: dict[str, Any] | None, spend: Spend) -> Progress:
    if row is None:
        return Progress(run, spend=spend)
    counts = {state: row[state] for state in State.values}
    gradings = (row["graded"], row["gradings"]) if run.kind == Run.Kind.ROLLOUT else (0, 0)
    return Progress(run, counts, spend, row["started"], row["ended"], row["recent"], gradings)


def spend_of(scopes: list[str]) -> dict[str, Spend]:
    """What the calls of each scope came to, as the server counted them. One query."""
    if not scopes:
        return {}
    tokens = Sum("input_tokens") + Sum("output_tokens") + Sum("cache_read_tokens") + Sum("cache_write_tokens")
    rows = (
        LlmCall.objects.filter(scope__in=scopes)
        .order_by()
        .values("scope")
        .annotate(calls=Count("id"), tokens=tokens, cost=Sum("cost_usd"), unpriced=Count("id", filter=Q(cost_usd__isnull=True)))
    )
    return {row["scope"]: Spend(row["calls"], row["tokens"] or 0, row["cost"] or 0.0, row["unpriced"]) for row in rows}


def page_of(kind: str = "", before: int | None = None) -> tuple[list[Progress], int | None]:
    """One page of the runs, the newest first, and the id to go on from."""
    runs: QuerySet[Run] = Run.objects.filter(kind__in=[kind] if kind else KINDS).select_related("created_by").order_by("-pk")
    if before is not None:
        runs = runs.filter(pk__lt=before)
    rows = list(runs[: PAGE + 1])
    return progress_of(rows[:PAGE]), rows[PAGE - 1].pk if len(rows) > PAGE else None


def reasons_of(run: Run) -> list[Reason]:
    """The most common reasons for failures."""
    rows = Job.objects.filter(run=run, state=State.FAILED).order_by().values("error").annotate(n=Count("id"), job=Min("id"))
    return [Reason(row["error"], row["n"], row["job"]) for row in rows.order_by("-n", "job")[:MOST_ERRORS]]


def parts_of(run: Run) -> list[dict[str, Any]]:
    """A rollout run by variant and model: how many are done, failed and open."""
    jobs = Job.objects.filter(run=run, kind=Job.Kind.ROLLOUT).order_by().values("arguments__variant", "arguments__model")
    rows = jobs.annotate(
        n=Count("id"), done=Count("id", filter=Q(state=State.DONE)), failed=Count("id", filter=Q(state=State.FAILED)), first=Min("id")
    )
    return list(rows.order_by("first"))
