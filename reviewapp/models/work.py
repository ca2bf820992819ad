"""Runs, prompts and outputs: what agents handed in."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from reviewapp.models.catalog import Task, Variant


class Run(models.Model):
    """What was asked for together: outputs that came in by an import or as samples, rollouts, or gradings.

    The jobs of rollouts and gradings point here; how far the run is, is counted from them.
    """

    class Kind(models.TextChoices):
        IMPORT = "import", "Import"
        SAMPLE = "sample", "Samples"
        ROLLOUT = "rollout", "Rollouts"
        GRADE = "grade", "Gradings"

    kind = models.CharField(max_length=16, choices=Kind)
    title = models.CharField(max_length=200)
    # What was asked: task, variants, models, n; or grader and which outputs; limit_usd, and the estimate that was shown.
    arguments = models.JSONField(default=dict, blank=True)
    # Under this name its calls of models are counted (LlmCall.scope).
    scope = models.CharField(max_length=100, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.title


class Prompt(models.Model):
    """A prompt as it was sent. Outputs of one prompt are one cluster in statistics and splits."""

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="prompts")
    sha256 = models.CharField(max_length=64)
    text = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["task", "sha256"], name="prompt_content_once")]

    def __str__(self) -> str:
        return self.text[:80]


class Output(models.Model):
    """What an agent handed in. Other content under the same external id is a new version.

    The long text is in OutputBody, so that lists never read it. The last block of fields is what
    rewards/labels.py made of the grades: written only there, recomputable at any time.
    """

    class LabelState(models.TextChoices):
        NONE = "none", "Not labelled"
        LABELLED = "labelled", "Labelled"
        CONFLICT = "conflict", "Raters disagree"
        ADJUDICATED = "adjudicated", "Adjudicated"

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="outputs", db_index=False)  # output_version_once begins with it
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT, related_name="outputs")
    prompt = models.ForeignKey(Prompt, null=True, blank=True, on_delete=models.PROTECT, related_name="outputs")
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.PROTECT, related_name="outputs")
    external_id = models.CharField(max_length=255)
    version = models.PositiveIntegerField(default=1)
    is_latest = models.BooleanField(default=True)
    content_hash = models.CharField(max_length=64)
    model = models.CharField(max_length=200, blank=True)
    format = models.CharField(max_length=16, default="text")
    # Characters of content.
    length = models.PositiveIntegerField(default=0)
    content_missing = models.CharField(max_length=500, blank=True)
    is_sample = models.BooleanField(default=False)
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()

    judge_score = models.FloatField(null=True, blank=True)
    judge_passed = models.BooleanField(null=True, blank=True)
    human_score = models.FloatField(null=True, blank=True)
    human_passed = models.BooleanField(null=True, blank=True)
    human_count = models.PositiveIntegerField(default=0)
    label_state = models.CharField(max_length=16, choices=LabelState, default=LabelState.NONE)
    label_source = models.CharField(max_length=20, blank=True)
    label_score = models.FloatField(null=True, blank=True)
    label_passed = models.BooleanField(null=True, blank=True)
    # |judge - human|, on the rubric's scale.
    disagreement = models.FloatField(null=True, blank=True)
    failure_category = models.CharField(max_length=100, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["task", "external_id", "version"], name="output_version_once"),
            models.UniqueConstraint(fields=["task", "external_id"], condition=Q(is_latest=True), name="output_one_latest"),
            models.CheckConstraint(condition=Q(format__in=["markdown", "python", "text"]), name="output_format_known"),
        ]
        # One index a sortable column of the outputs page, for all tasks and for one; each ends in id, the key that pages.
        indexes = [
            models.Index(fields=["task", "id"], condition=Q(is_latest=True), name="output_by_task"),
            models.Index(fields=["judge_score", "id"], condition=Q(is_latest=True), name="output_by_judge_score"),
            models.Index(fields=["human_score", "id"], condition=Q(is_latest=True), name="output_by_human_score"),
            models.Index(fields=["disagreement", "id"], condition=Q(is_latest=True), name="output_by_disagreement"),
            models.Index(fields=["length", "id"], condition=Q(is_latest=True), name="output_by_length"),
            models.Index(fields=["created_at", "id"], condition=Q(is_latest=True), name="output_by_created"),
            models.Index(fields=["task", "judge_score", "id"], condition=Q(is_latest=True), name="output_by_task_judge"),
            models.Index(fields=["task", "human_score", "id"], condition=Q(is_latest=True), name="output_by_task_human"),
            models.Index(fields=["task", "disagreement", "id"], condition=Q(is_latest=True), name="output_by_task_differ"),
            models.Index(fields=["task", "length", "id"], condition=Q(is_latest=True), name="output_by_task_length"),
            models.Index(fields=["task", "created_at", "id"], condition=Q(is_latest=True), name="output_by_task_created"),
            models.Index(fields=["task", "label_state", "id"], condition=Q(is_latest=True), name="output_by_task_label"),
            models.Index(fields=["model", "id"], condition=Q(is_latest=True), name="output_by_model"),
            models.Index(fields=["failure_category", "id"], condition=Q(is_latest=True), name="output_by_failure"),
            models.Index(fields=["task", "human_count", "content_hash"], condition=Q(is_latest=True), name="output_by_review_order"),
        ]

    def __str__(self) -> str:
        return self.external_id

    def get_absolute_url(self) -> str:
        return reverse("review", args=[self.pk])


class OutputBody(models.Model):
    """The long texts of an output. Written once."""

    output = models.OneToOneField(Output, primary_key=True, on_delete=models.PROTECT, related_name="body")
    content = models.TextField(blank=True)
    # Context shown beside the output, such as the article that a summary is of.
    reference = models.TextField(blank=True)
    # [{"role": ..., "content": ..., "name"?: ...}, ...] as it was sent and received.
    transcript = models.JSONField(default=list, blank=True)
