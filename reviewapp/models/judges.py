"""Judges that people wrote, and which grader's verdict is the task's: both are added to and never changed."""

from __future__ import annotations

from typing import cast

from django.conf import settings
from django.db import models
from django.utils import timezone

from graders.judge.judge import Judge
from llm.types import Effort
from reviewapp.models.append_only import AppendOnlyModel
from reviewapp.models.catalog import Grader, Task
from reviewapp.models.work import Output


class JudgeVersion(AppendOnlyModel):
    """One version of an LLM judge: name, model, settings, prompt template. Its grades are those of `grader`.

    The rubric is the task's, and each grade points at the version that it was made with.
    """

    grader = models.OneToOneField(Grader, on_delete=models.PROTECT, related_name="judge_version")
    model = models.CharField(max_length=200)
    # Empty: a model that knows no effort.
    effort = models.CharField(max_length=10, blank=True)
    thinking = models.BooleanField(default=True)
    votes = models.PositiveIntegerField(default=3)
    max_tokens = models.PositiveIntegerField(default=16_000)
    template = models.TextField()
    # Why it was made, in the words of who made it.
    note = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(AppendOnlyModel.Meta):
        ordering = ["id"]

    def __str__(self) -> str:
        return str(self.grader)

    @property
    def judge(self) -> Judge:
        return Judge(
            name=self.grader.name,
            model=self.model,
            effort=cast(Effort, self.effort) if self.effort else None,
            thinking=self.thinking,
            votes=self.votes,
            max_tokens=self.max_tokens,
            template=self.template,
        )


class JudgedPair(AppendOnlyModel):
    """Which of two outputs of one prompt a judge finds better, asked in both orders (graders/judge/pairwise.py).

    `winner` is first, second or tie; empty with a reason when an answer could not be used. `by_order` is what each order said.
    """

    grader = models.ForeignKey(Grader, on_delete=models.PROTECT, related_name="pairs", db_index=False)
    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="judged_pairs")
    first = models.ForeignKey(Output, on_delete=models.PROTECT, related_name="+")
    second = models.ForeignKey(Output, on_delete=models.PROTECT, related_name="+")
    winner = models.CharField(max_length=10, blank=True)
    is_consistent = models.BooleanField(default=False)
    by_order = models.JSONField(default=list)
    criteria = models.JSONField(default=dict)
    rationale = models.TextField(blank=True)
    unscored_reason = models.CharField(max_length=40, blank=True)
    cost_usd = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(AppendOnlyModel.Meta):
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["grader", "first", "second"], name="judged_pair_once")]

    def __str__(self) -> str:
        return f"{self.first_id} and {self.second_id}: {self.winner or self.unscored_reason}"


class Promotion(AppendOnlyModel):
    """From here on this is the task's primary grader. The newest row holds; an undo is one more row."""

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="promotions")
    # As it stands in Task.primary_grader: "name" or "name@version".
    primary_grader = models.CharField(max_length=200, blank=True)
    before = models.CharField(max_length=200, blank=True)
    undoes = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="undone_by")
    reason = models.CharField(max_length=500, blank=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(AppendOnlyModel.Meta):
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.primary_grader} for {self.task_id}"
