"""A reviewer's unfinished work: drafts, skips, flags."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from reviewapp.models.grades import Grade
from reviewapp.models.work import Output


class Draft(models.Model):
    """What a reviewer has entered on an output and not yet submitted. Saved at each answer."""

    output = models.ForeignKey(Output, on_delete=models.CASCADE, related_name="drafts")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="drafts")
    mode = models.CharField(max_length=16, choices=Grade.Mode, default=Grade.Mode.BLIND)
    # criterion key -> {"score": 6.5 | "value": "tie" | "unsure": true, "note": "...", "evidence": [...]}
    answers = models.JSONField(default=dict, blank=True)
    note = models.TextField(blank=True)
    # The newest grade of the output when the draft was begun: a submit after a newer one is asked again.
    seen_grade = models.ForeignKey(Grade, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    # What a submit of this draft takes the place of: the judge's grade in an override, else one's own earlier grade.
    supersedes = models.ForeignKey(Grade, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    active_ms = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["output", "reviewer"], name="draft_one_per_reviewer")]


class Skip(models.Model):
    """A reviewer passed an output by, and why."""

    output = models.ForeignKey(Output, on_delete=models.CASCADE, related_name="skips")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="skips")
    reason = models.CharField(max_length=500)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["output", "reviewer"], name="skip_once_per_reviewer")]


class Flag(models.Model):
    """A reviewer says that something is wrong with an output; open until it is resolved."""

    output = models.ForeignKey(Output, on_delete=models.CASCADE, related_name="flags")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="flags")
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["output", "reviewer"], condition=Q(resolved_at__isnull=True), name="flag_one_open")]
