"""Tokens for the HTTP API: named, bound to a member and to scopes, kept as a hash alone."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class ApiToken(models.Model):
    """What a program shows in place of a password. It may do what its scopes say, and never more than its member may."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens", db_index=False)
    name = models.CharField(max_length=60)
    # Some of api/scopes.py.
    scopes = models.JSONField(default=list)
    # Of the token's text, which has 256 random bits: nothing to guess, so nothing to slow down.
    sha256 = models.CharField(max_length=64, unique=True)
    # The last four characters, so that people know which one it is.
    hint = models.CharField(max_length=4)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="api_token_name_once")]

    def __str__(self) -> str:
        return f"{self.name} of {self.user_id}"

    @property
    def state(self) -> str:
        """live, expired or revoked."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= timezone.now() else "live"
