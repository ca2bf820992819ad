"""Members and their roles."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone


class User(AbstractUser):
    """A member. Each role may do all that the roles before it may."""

    class Role(models.TextChoices):
        VIEWER = "viewer", "Viewer: reads"
        REVIEWER = "reviewer", "Reviewer: grades outputs"
        ADJUDICATOR = "adjudicator", "Adjudicator: settles disagreements"
        ADMIN = "admin", "Admin: imports, runs graders, manages members"

    role = models.CharField(max_length=16, choices=Role, default=Role.REVIEWER)
    # Whether lists hide what judges said of outputs that this member has yet to grade. Reviewers always work blind.
    works_blind = models.BooleanField(default=True)
    # When they last could see the judges in lists: what they grade of the outputs of that time is not blind.
    saw_judges_at = models.DateTimeField(null=True, blank=True)

    def has_role(self, role: str) -> bool:
        order = self.Role.values
        return self.is_active and (self.is_superuser or order.index(self.role) >= order.index(role))

    @property
    def hides_judges(self) -> bool:
        """Whether lists hide the judges' word from this member. Viewers grade nothing, so they see all."""
        return self.has_role(self.Role.REVIEWER) and (self.works_blind or not self.has_role(self.Role.ADJUDICATOR))

    def may_have_seen_judge(self, made_at: datetime) -> bool:
        """Whether a list could have shown them the judge's word on an output made then."""
        return not self.hides_judges or (self.saw_judges_at is not None and made_at <= self.saw_judges_at)

    def show_judges(self, is_shown: bool) -> None:
        """Show or hide the judges in lists; having seen them is remembered."""
        self.works_blind = not is_shown
        self.saw_judges_at = timezone.now()
        self.save(update_fields=["works_blind", "saw_judges_at"])
