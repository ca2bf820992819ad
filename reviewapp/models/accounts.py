"""Members and their roles."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """A member. Each role may do all that the roles before it may."""

    class Role(models.TextChoices):
        VIEWER = "viewer", "Viewer: reads"
        REVIEWER = "reviewer", "Reviewer: grades outputs"
        ADJUDICATOR = "adjudicator", "Adjudicator: settles disagreements"
        ADMIN = "admin", "Admin: imports, runs graders, manages members"

    role = models.CharField(max_length=16, choices=Role, default=Role.REVIEWER)

    def has_role(self, role: str) -> bool:
        order = self.Role.values
        return self.is_active and (self.is_superuser or order.index(self.role) >= order.index(role))
