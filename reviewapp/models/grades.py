"""Grades and criterion scores: append-only facts."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from reviewapp.models.append_only import AppendOnlyModel
from reviewapp.models.catalog import Criterion, Grader, Rubric
from reviewapp.models.work import Output

LARGEST = 1e12  # PostgreSQL sorts NaN above every number, so an upper bound also keeps NaN and infinity out.


def is_finite(field: str) -> Q:
    return Q(**{f"{field}__isnull": True}) | Q(**{f"{field}__gte": -LARGEST, f"{field}__lte": LARGEST})


class Grade(AppendOnlyModel):
    """All criterion scores of one output by one grader, at one moment.

    Never changed: who changes their mind, or overrides a judge, adds a grade that `supersedes` the other.
    `overall` is on the rubric's scale; None with `unscored_reason` when it was not scored.
    """

    class Mode(models.TextChoices):
        AUTOMATIC = "automatic", "Automatic"
        BLIND = "blind", "Blind"
        ASSISTED = "assisted", "Assisted"
        OVERRIDE = "override", "Override"
        ADJUDICATION = "adjudication", "Adjudication"

    # db_index=False where a constraint or an index below begins with the column: every further index slows imports down.
    output = models.ForeignKey(Output, on_delete=models.PROTECT, related_name="grades", db_index=False)
    grader = models.ForeignKey(Grader, on_delete=models.PROTECT, related_name="grades", db_index=False)
    rubric = models.ForeignKey(Rubric, on_delete=models.PROTECT, related_name="grades")
    mode = models.CharField(max_length=16, choices=Mode)
    # A member here, or the name that an import gives its rater.
    rater = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="grades", db_index=False
    )
    rater_name = models.CharField(max_length=150, blank=True)
    overall = models.FloatField(null=True, blank=True)
    passed = models.BooleanField(null=True, blank=True)
    runs = models.BooleanField(null=True, blank=True)
    unscored_reason = models.CharField(max_length=40, blank=True)
    rationale = models.TextField(blank=True)
    failure_category = models.CharField(max_length=100, blank=True)
    # What the sandbox saw: error, stdout, stderr, sandbox, peak_memory_mb, traces.
    run_log = models.JSONField(default=dict, blank=True)
    supersedes = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="superseded_by")
    cost_usd = models.FloatField(null=True, blank=True)
    # A grader's wall time, or a reviewer's active time.
    duration_s = models.FloatField(null=True, blank=True)
    # Unique per output: what makes a second delivery or a second import of the same grade a no-op.
    key = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(AppendOnlyModel.Meta):
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["output", "key"], name="grade_key_once"),
            models.CheckConstraint(
                condition=Q(mode__in=["automatic", "blind", "assisted", "override", "adjudication"]), name="grade_mode_known"
            ),
            models.CheckConstraint(condition=Q(mode="automatic") | ~Q(rater_name=""), name="grade_by_a_person_names_them"),
            models.CheckConstraint(condition=~Q(mode="override") | Q(supersedes__isnull=False), name="grade_override_names_what"),
            models.CheckConstraint(condition=is_finite("overall"), name="grade_overall_finite"),
            models.CheckConstraint(condition=Q(overall__isnull=False) | ~Q(unscored_reason=""), name="grade_unscored_says_why"),
        ]
        indexes = [
            models.Index(fields=["grader", "rubric", "passed"], name="grade_by_grader"),
            models.Index(fields=["rater_name", "output"], name="grade_by_rater_name"),
            models.Index(fields=["rater", "created_at"], condition=Q(rater__isnull=False), name="grade_by_rater"),
        ]

    def __str__(self) -> str:
        return f"{self.rater_name or self.grader} on {self.output_id}: {self.overall}"

    @property
    def is_human(self) -> bool:
        return self.mode != self.Mode.AUTOMATIC


class CriterionScore(AppendOnlyModel):
    """One criterion's score in a grade. `score` on the criterion's scale, `value` for a categorical one."""

    grade = models.ForeignKey(Grade, on_delete=models.PROTECT, related_name="criterion_scores", db_index=False)
    criterion = models.ForeignKey(Criterion, on_delete=models.PROTECT, related_name="scores")
    score = models.FloatField(null=True, blank=True)
    value = models.CharField(max_length=100, blank=True)
    passed = models.BooleanField(null=True, blank=True)
    unscored_reason = models.CharField(max_length=40, blank=True)
    rationale = models.TextField(blank=True)
    # [{"text": ..., "kind": "static|trace|run|quote", "line_start": 3, "line_end": 5}, ...]
    evidence = models.JSONField(default=list, blank=True)

    class Meta(AppendOnlyModel.Meta):
        ordering = ["grade_id", "id"]
        constraints = [
            models.UniqueConstraint(fields=["grade", "criterion"], name="criterion_score_once"),
            models.CheckConstraint(condition=is_finite("score"), name="criterion_score_finite"),
            models.CheckConstraint(
                condition=Q(score__isnull=False) | ~Q(value="") | ~Q(unscored_reason=""), name="criterion_unscored_says_why"
            ),
        ]


class Retraction(AppendOnlyModel):
    """A person took a grade of theirs back (undo). The grade stays in the history and counts no more."""

    grade = models.OneToOneField(Grade, on_delete=models.PROTECT, related_name="retraction")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
