"""Queues: which outputs people are asked to grade, how these were drawn, and who is at which."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from reviewapp.models.catalog import Grader, Task
from reviewapp.models.grades import Grade, is_finite
from reviewapp.models.work import Output

MOST_GOLD = 50  # percent of what a reviewer is handed


class Queue(models.Model):
    """A sample of a task's outputs to be graded blind by `overlap` people each. Never changed once drawn, only closed.

    Each item holds the probability with which it was drawn: what labels say of the other outputs follows from it.
    An adjudication queue is no sample: its items are the outputs whose raters differ, found anew as people grade.
    """

    class Kind(models.TextChoices):
        SAMPLE = "sample", "Sample"
        ADJUDICATION = "adjudication", "Adjudication"

    class Policy(models.TextChoices):
        RANDOM = "random", "Random"
        STRATIFIED = "stratified", "Stratified"
        ACTIVE = "active", "Active"
        DISAGREEMENT = "disagreement", "Disagreement"

    kind = models.CharField(max_length=16, choices=Kind, default=Kind.SAMPLE)
    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="queues")
    # Whose scores the policy drew by; None where nobody has graded.
    judge = models.ForeignKey(Grader, null=True, blank=True, on_delete=models.PROTECT, related_name="queues")
    title = models.CharField(max_length=200)
    policy = models.CharField(max_length=16, choices=Policy, default=Policy.RANDOM)
    # The filters of the outputs page that the outputs were drawn from; empty means all of the task.
    filter = models.CharField(max_length=2000, blank=True)
    seed = models.PositiveBigIntegerField()
    size = models.PositiveIntegerField()
    # How many outputs it was drawn from.
    population = models.PositiveIntegerField()
    overlap = models.PositiveIntegerField(default=1)
    # Of a stratified queue: the judge scores at which one stratum ends and the next begins.
    cuts = models.JSONField(default=list, blank=True)
    # Of what each reviewer is handed, so many in a hundred are items whose answer is known.
    gold_share = models.PositiveSmallIntegerField(default=0)
    # Whether a reviewer is told after the submit that it was gold, and the answer.
    tells_gold = models.BooleanField(default=False)
    # Of an adjudication queue: whose items it looks at (None: all outputs of the task), and how far raters may differ.
    source = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE, related_name="adjudications")
    max_difference = models.FloatField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(policy__in=["random", "stratified", "active", "disagreement"]), name="queue_policy_known"),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="queue_overlap_at_least_one"),
            models.CheckConstraint(condition=Q(gold_share__lte=MOST_GOLD), name="queue_gold_share"),
            models.CheckConstraint(
                condition=Q(kind="sample") | Q(kind="adjudication", max_difference__gte=0, gold_share=0), name="queue_kind_known"
            ),
        ]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("queue", args=[self.pk])

    @property
    def is_adjudication(self) -> bool:
        return self.kind == self.Kind.ADJUDICATION

    @property
    def is_for_estimates(self) -> bool:
        return self.policy != self.Policy.DISAGREEMENT and not self.is_adjudication


class QueueItem(models.Model):
    """An output in a queue, in the random order in which to grade them."""

    queue = models.ForeignKey(Queue, on_delete=models.CASCADE, related_name="items", db_index=False)
    output = models.ForeignKey(Output, on_delete=models.PROTECT, related_name="queue_items")
    position = models.PositiveIntegerField()
    # With which it was drawn; None where the policy is no lottery. Of gold: among the outputs whose answer is known.
    probability = models.FloatField(null=True, blank=True)
    # Mixed in to watch the reviewers: handed to each of them, and in no estimate.
    is_gold = models.BooleanField(default=False)

    class Meta:
        ordering = ["queue_id", "position"]
        constraints = [
            models.UniqueConstraint(fields=["queue", "position"], name="queue_item_position_once"),
            # A known output may be drawn as well: then it is done already, and gold beside it.
            models.UniqueConstraint(fields=["queue", "output", "is_gold"], name="queue_item_output_once"),
            models.CheckConstraint(
                condition=Q(probability__isnull=True) | Q(probability__gt=0, probability__lte=1), name="queue_item_probability"
            ),
        ]


class Claim(models.Model):
    """A reviewer has, or had, an item of a queue; theirs until `until`, and for good once there is a grade."""

    item = models.ForeignKey(QueueItem, on_delete=models.CASCADE, related_name="claims", db_index=False)
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="claims")
    until = models.DateTimeField()
    grade = models.OneToOneField(Grade, null=True, blank=True, on_delete=models.PROTECT, related_name="claim")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["item", "reviewer"], name="claim_once")]


class GoldAnswer(models.Model):
    """The answer that an admin expects of an output, which makes it gold. It is no grade and labels nothing."""

    output = models.OneToOneField(Output, on_delete=models.CASCADE, related_name="gold_answer")
    # On the rubric's scale; at least one of the two is there.
    overall = models.FloatField(null=True, blank=True)
    passed = models.BooleanField(null=True, blank=True)
    note = models.CharField(max_length=500, blank=True)
    set_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(overall__isnull=False) | Q(passed__isnull=False), name="gold_answer_says_something"),
            models.CheckConstraint(condition=is_finite("overall"), name="gold_answer_finite"),
        ]
