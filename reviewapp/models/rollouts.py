"""What the tools of a rollout under way answered: kept until it ends, so that one that starts again asks the same."""

from __future__ import annotations

from django.db import models

from reviewapp.models.jobs import Job


class ToolResult(models.Model):
    """`key`: the place of the call in the rollout, and what it asked (tasks/agent.py)."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="tool_results", db_index=False)
    key = models.CharField(max_length=100)
    text = models.TextField(blank=True)
    is_error = models.BooleanField(default=False)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["job", "key"], name="tool_result_once")]

    def __str__(self) -> str:
        return self.key
