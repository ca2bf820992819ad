"""The money of a run, set aside by all processes that work on it: rows of the database (llm/budget.py says what for).

Each step is one transaction that no other of the same run can come between. What a process had set aside when it was killed
may have been charged, and nobody knows: once its leases have run out it counts as what the finished calls of the run cost on
average, or as what was set aside where there are none.
"""

from __future__ import annotations

from django.db import connection, transaction
from django.db.models import Avg, Q, Sum
from django.utils import timezone

from llm.budget import Ledger, over_limit
from llm.errors import BudgetSpent
from reviewapp.judges.calls import patiently
from reviewapp.models import Job, LlmCall, SpendingHold


class DatabaseLedger(Ledger):
    """For the calls that are counted under a scope, made under one lease."""

    def __init__(self, scope: str, holder: str) -> None:
        self.scope, self.holder = scope, holder

    def hold(self, key: str, usd: float, limit_usd: float) -> bool:
        spent, lost, is_held = patiently(lambda: self._hold(key, usd, limit_usd))
        if spent + lost + usd > limit_usd:
            guessed = f" (${lost:.4f} of it a guess, for calls that were broken off)" if lost else ""
            raise BudgetSpent(
                f"{over_limit(limit_usd, spent + lost)}{guessed}, and the next call may use ${usd:.4f}: raise the limit to go on"
            )
        return is_held

    @transaction.atomic
    def _hold(self, key: str, usd: float, limit_usd: float) -> tuple[float, float, bool]:
        """(spent, lost, is it set aside)."""
        self._lock()
        held, lost, spent, mean = self._state()
        if spent + held + lost + usd > limit_usd and self._give_up_dead(mean):
            held, lost, spent, mean = self._state()
        is_held = spent + held + lost + usd <= limit_usd
        if is_held:
            SpendingHold.objects.create(key=key, scope=self.scope, holder=self.holder, usd=usd)
        return spent, lost, is_held

    def settle(self, key: str, *, is_known: bool) -> None:
        mine = SpendingHold.objects.filter(key=key)
        if is_known:
            patiently(mine.delete)
        elif found := patiently(mine.first):
            patiently(lambda: self._lose(found, self._spent()[1]))

    def close(self) -> None:
        connection.close()

    def _lock(self) -> None:
        """SQLite has one writer at a time anyway: a transaction begins as one (settings.py)."""
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"money of {self.scope}"])

    def _state(self) -> tuple[float, float, float, float | None]:
        """What `_held` and `_spent` return, in that order: a call whose cost is stored meanwhile is counted twice, and never not at all."""
        return *self._held(), *self._spent()

    def _spent(self) -> tuple[float, float | None]:
        """What the finished calls came to, and one of them on average."""
        found = LlmCall.objects.filter(scope=self.scope).aggregate(total=Sum("cost_usd"), mean=Avg("cost_usd"))
        return found["total"] or 0.0, found["mean"]

    def _held(self) -> tuple[float, float]:
        """(set aside for calls under way, lost)."""
        sums = {"held": Sum("usd", filter=Q(is_lost=False)), "lost": Sum("usd", filter=Q(is_lost=True))}
        found = SpendingHold.objects.filter(scope=self.scope).aggregate(**sums)
        return found["held"] or 0.0, found["lost"] or 0.0

    def _give_up_dead(self, mean: float | None) -> bool:
        """Count what dead processes had set aside as lost; True if there was some."""
        alive = Job.objects.filter(state=Job.State.RUNNING, lease_until__gte=timezone.now()).exclude(lease_token="")
        others = SpendingHold.objects.filter(scope=self.scope, is_lost=False).exclude(holder=self.holder)
        dead = list(others.exclude(holder__in=alive.values("lease_token")))
        for row in dead:
            self._lose(row, mean)
        return bool(dead)

    @staticmethod
    def _lose(row: SpendingHold, mean: float | None) -> None:
        guess = row.usd if mean is None else min(row.usd, mean)
        SpendingHold.objects.filter(pk=row.pk).update(is_lost=True, usd=guess)
