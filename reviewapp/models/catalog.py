"""Tasks, prompt variants, rubrics, criteria and graders: immutable versions named by their content's hash."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.urls import reverse

import tasks.task as spec
from reviewapp.words import version_word


class Task(models.Model):
    """What an agent is asked. Its words live in Variant and Rubric versions; this row points at today's."""

    slug = models.CharField(max_length=63, unique=True)
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    output_format = models.CharField(max_length=16, default="markdown")
    tools = models.JSONField(default=list, blank=True)
    graders = models.JSONField(default=list, blank=True)
    # The grader whose verdict is "the judge's" in lists, labels and exports when there are several: "name", or
    # "name@version" once a version was promoted (Promotion).
    primary_grader = models.CharField(max_length=200, blank=True)
    band_low = models.FloatField(default=0.05)
    band_high = models.FloatField(default=0.30)
    rubric = models.ForeignKey("Rubric", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    # Goes up with every change of the task's outputs or grades: the key of everything cached about it.
    revision = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(
                condition=Q(band_low__gte=0, band_high__lte=1, band_low__lt=F("band_high")), name="task_band_is_a_range"
            ),
        ]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("task", args=[self.slug])


class Variant(models.Model):
    """One wording of a task's prompt. Another wording under the same name is a new version."""

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="variants")
    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField(default=1)
    sha256 = models.CharField(max_length=64)
    title = models.CharField(max_length=200, blank=True)
    description = models.TextField(blank=True)
    # Empty for a variant that came with an import, where each output has a prompt of its own.
    prompt = models.TextField(blank=True)
    starter = models.TextField(blank=True)
    position = models.PositiveIntegerField(default=0)
    is_current = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["task_id", "position", "id"]
        constraints = [
            models.UniqueConstraint(fields=["task", "name", "version"], name="variant_version_once"),
            models.UniqueConstraint(fields=["task", "name", "sha256"], name="variant_content_once"),
            models.UniqueConstraint(fields=["task", "name"], condition=Q(is_current=True), name="variant_one_current"),
        ]

    def __str__(self) -> str:
        return self.title or self.name


class Rubric(models.Model):
    """Criteria, weights and what a pass is, as one immutable version."""

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="rubrics")
    version = models.PositiveIntegerField(default=1)
    sha256 = models.CharField(max_length=64)
    scale_low = models.FloatField(default=0)
    scale_high = models.FloatField(default=10)
    pass_rule = models.CharField(max_length=16, choices=[("overall", "overall"), ("count", "count")], default="overall")
    pass_threshold = models.FloatField(null=True, blank=True)
    min_passed = models.PositiveIntegerField(null=True, blank=True)
    requires_run = models.BooleanField(default=False)
    judge_instructions = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["task_id", "version"]
        constraints = [
            models.UniqueConstraint(fields=["task", "version"], name="rubric_version_once"),
            models.UniqueConstraint(fields=["task", "sha256"], name="rubric_content_once"),
            models.CheckConstraint(condition=Q(scale_low__lt=F("scale_high")), name="rubric_scale_is_a_range"),
            models.CheckConstraint(condition=Q(pass_rule__in=["overall", "count"]), name="rubric_pass_rule_known"),
        ]

    def __str__(self) -> str:
        return f"{self.task.slug} rubric v{self.version}"

    @property
    def spec(self) -> spec.Rubric:
        """The plain rubric that graders and the weighted score work with."""
        return spec.Rubric(
            criteria=tuple(c.spec for c in self.criteria.all()),
            scale=(self.scale_low, self.scale_high),
            pass_rule=self.pass_rule,
            pass_threshold=self.pass_threshold,
            min_passed=self.min_passed,
            requires_run=self.requires_run,
        )


class Criterion(models.Model):
    """One line of a rubric version."""

    rubric = models.ForeignKey(Rubric, on_delete=models.PROTECT, related_name="criteria")
    key = models.CharField(max_length=63)
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    weight = models.FloatField(default=1.0)
    kind = models.CharField(max_length=16, choices=[(k, k) for k in ("numeric", "binary", "categorical")], default="numeric")
    scale_low = models.FloatField(default=0)
    scale_high = models.FloatField(default=10)
    values = models.JSONField(default=list, blank=True)
    position = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["rubric_id", "position"]
        verbose_name_plural = "criteria"
        constraints = [
            models.UniqueConstraint(fields=["rubric", "key"], name="criterion_key_once"),
            models.CheckConstraint(condition=Q(weight__gte=0), name="criterion_weight_not_negative"),
            models.CheckConstraint(condition=Q(scale_low__lt=F("scale_high")), name="criterion_scale_is_a_range"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def spec(self) -> spec.Criterion:
        return spec.Criterion(
            key=self.key,
            title=self.title,
            description=self.description,
            weight=self.weight,
            kind=self.kind,
            scale=(self.scale_low, self.scale_high),
            values=tuple(self.values),
        )


class Grader(models.Model):
    """A judge, a code grader, or people: one version of it."""

    class Kind(models.TextChoices):
        LLM_JUDGE = "llm_judge", "LLM judge"
        CODE = "code", "Code grader"
        HUMAN = "human", "Human"

    name = models.CharField(max_length=100)
    version = models.CharField(max_length=64, default="1")
    sha256 = models.CharField(max_length=64)
    kind = models.CharField(max_length=16, choices=Kind)
    # Scores written for the demo: marked as samples wherever they show.
    is_sample = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["name", "version", "sha256"], name="grader_content_once"),
            models.CheckConstraint(condition=Q(kind__in=["llm_judge", "code", "human"]), name="grader_kind_known"),
        ]

    def __str__(self) -> str:
        return self.name if self.kind == self.Kind.HUMAN else f"{self.name} {version_word(self.version)}"

    @property
    def is_human(self) -> bool:
        return self.kind == self.Kind.HUMAN

    def rank_for(self, primary: str) -> int:
        """How well it fits Task.primary_grader: 2 it is the grader or the version named, 1 another version of that, 0 another."""
        if primary in (self.name, f"{self.name}@{self.version}"):
            return 2
        return int(primary.startswith(f"{self.name}@"))
