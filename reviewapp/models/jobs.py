"""Job: the truth about work done in the background. The Celery message is only a wake-up."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from reviewapp.models.catalog import Grader
from reviewapp.models.grades import Grade
from reviewapp.models.work import Output, Run


class Job(models.Model):
    """One unit of work: a grading, a rollout, an import, an export, or the reward of a completion that is no output.

    A worker claims it by taking a lease (token and end); a job whose lease has run out may be claimed again.
    Only who still holds the lease may finish it, in the transaction that writes the result.
    """

    class Kind(models.TextChoices):
        GRADE = "grade", "Grading"
        IMPORT = "import", "Import"
        EXPORT = "export", "Export"
        ROLLOUT = "rollout", "Rollout"
        REWARD = "reward", "Reward"

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"
        PAUSED = "paused", "Paused"

    kind = models.CharField(max_length=16, choices=Kind)
    # The Celery queue that wakes it; empty: the one of its kind (jobs/wakeups.py).
    queue = models.CharField(max_length=20, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)
    output = models.ForeignKey(Output, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    grader = models.ForeignKey(Grader, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    # The run that asked for it, if one did; the newest one that did while it was not done.
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs", db_index=False)
    # Which part of its run it is, such as "bio_hints/claude-opus-5-5/3": the same part is made once. Of a reward: the
    # rubric and the completion's hash, so that the same completion is graded once by a grader version.
    unit = models.CharField(max_length=400, blank=True)
    # 1 for the first grading of an output by a grader version, 2 when a person asks for another.
    attempt = models.PositiveIntegerField(default=1)
    arguments = models.JSONField(default=dict, blank=True)
    result = models.JSONField(default=dict, blank=True)
    grade = models.OneToOneField(Grade, null=True, blank=True, on_delete=models.PROTECT, related_name="job")

    lease_token = models.CharField(max_length=36, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    # Times claimed; a job that was claimed `max_claims` times without an end has failed.
    claims = models.PositiveIntegerField(default=0)
    max_claims = models.PositiveIntegerField(default=5)
    woken_at = models.DateTimeField(null=True, blank=True)

    stage = models.CharField(max_length=200, blank=True)
    done_units = models.PositiveBigIntegerField(default=0)
    total_units = models.PositiveBigIntegerField(default=0)
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["output", "grader", "attempt"], condition=Q(kind="grade"), name="job_grading_once"),
            models.UniqueConstraint(fields=["run", "unit"], condition=~Q(unit=""), name="job_unit_once"),
            models.UniqueConstraint(fields=["grader", "unit"], condition=Q(kind="reward"), name="job_reward_once"),
            models.CheckConstraint(
                condition=Q(state__in=["queued", "running", "done", "failed", "cancelled", "paused"]), name="job_state_known"
            ),
            models.CheckConstraint(condition=~Q(state="running") | Q(lease_until__isnull=False), name="job_running_has_lease"),
            models.CheckConstraint(condition=Q(claims__lte=F("max_claims")), name="job_claims_bounded"),
        ]
        indexes = [
            models.Index(fields=["state", "lease_until"], condition=Q(state__in=["queued", "running"]), name="job_open"),
            models.Index(fields=["output", "-id"], name="job_by_output"),
            models.Index(fields=["state", "-id"], name="job_by_state"),
            models.Index(fields=["run", "state"], condition=Q(run__isnull=False), name="job_by_run"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}: {self.state}"

    @property
    def is_open(self) -> bool:
        return self.state in (self.State.QUEUED, self.State.RUNNING)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was first claimed, until its end; while it is queued, since it was asked for."""
        began = self.created_at if self.state == self.State.QUEUED else self.started_at or self.finished_at or self.created_at
        return max(0.0, ((self.finished_at or timezone.now()) - began).total_seconds())
