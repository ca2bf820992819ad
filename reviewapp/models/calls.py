"""Calls of models: what was asked, what it cost, and the limits that the workers share. judges/calls.py writes them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone


class LlmCall(models.Model):
    """A finished call, stored before its result is used: the same request is not made again. Written once.

    `request_sha256` is empty for a call that was paid for and broke off. `cost_usd` is None where no price is known.
    """

    request_sha256 = models.CharField(max_length=64, blank=True)
    # What the call was made for: the gradings that were asked for together, or a run.
    scope = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200)
    # llm.types.Reply as JSON: blocks (thinking too), stop reason, usage.
    reply = models.JSONField()
    request_id = models.CharField(max_length=200, blank=True)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    cache_read_tokens = models.PositiveBigIntegerField(default=0)
    cache_write_tokens = models.PositiveBigIntegerField(default=0)
    thinking_tokens = models.PositiveBigIntegerField(default=0)
    cost_usd = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(cost_usd__isnull=True) | Q(cost_usd__gte=0, cost_usd__lte=1e9), name="llm_call_cost_sane")
        ]
        indexes = [
            models.Index(fields=["request_sha256", "id"], name="llm_call_by_request"),
            models.Index(fields=["scope", "cost_usd"], name="llm_call_by_scope"),  # sums of a run are read from it alone
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.request_id}"


class LlmBatch(models.Model):
    """A batch that a server works on; `ended_at` once all its results are stored as calls."""

    batch_id = models.CharField(max_length=200, unique=True)
    scope = models.CharField(max_length=100, blank=True)
    request_hashes = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "llm batches"

    def __str__(self) -> str:
        return self.batch_id


class SpendingHold(models.Model):
    """Money of a run with a limit that is set aside for a call under way: what it may cost at worst. judges/money.py writes it.

    It is deleted once the cost of the call is stored. `is_lost`: nobody knows whether the call was charged (its worker was
    killed, or it was dropped in the middle); `usd` is then a guess, and counts as spent.
    """

    key = models.CharField(max_length=32, unique=True)
    scope = models.CharField(max_length=100, db_index=True)
    # The lease (Job.lease_token) under which the call is made.
    holder = models.CharField(max_length=36)
    usd = models.FloatField()
    is_lost = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.scope}: ${self.usd:.4f}"


class RateBucket(models.Model):
    """One number of llm/limits.py: the moment (seconds since 1970) until which a limit is spoken for."""

    name = models.CharField(max_length=200, unique=True)
    free_at = models.FloatField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
