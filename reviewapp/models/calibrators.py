"""Calibrators: maps from a judge's score to the score that people would give, each version kept as it was used."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from reviewapp.models.append_only import AppendOnlyModel
from reviewapp.models.catalog import Task
from reviewapp.words import version_word


class Calibrator(AppendOnlyModel):
    """One fit for one version of a judge. Named by its content: the same labels give the same hash, and no new row."""

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="calibrators", db_index=False)
    judge_name = models.CharField(max_length=100)
    judge_version = models.CharField(max_length=64)
    # method, judge and human (the knots), chance (of a pass, at the same knots), low, high, half_width (of the interval of a
    # prediction, null without one), level, n, n_prompts
    map = models.JSONField()
    # Errors in points before and after, on prompts that the map has not seen.
    report = models.JSONField(default=dict)
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(AppendOnlyModel.Meta):
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["task", "judge_name", "judge_version", "sha256"], name="calibrator_content_once"),
        ]

    @property
    def half_width(self) -> float | None:
        """Of the interval of one prediction. None where there is none; a map of an earlier release says 0 there."""
        return self.map["half_width"] or None

    def __str__(self) -> str:
        return f"{self.judge_name} {version_word(self.judge_version)} on {self.task_id}: {self.sha256[:12]}"
