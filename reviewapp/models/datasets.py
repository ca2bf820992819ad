"""Snapshots (exported datasets) and saved views of the outputs page."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from reviewapp.models.jobs import Job


class Snapshot(models.Model):
    """One exported dataset: its spec, and once written its manifest and folder. Immutable once written."""

    # format, tasks, policy, split, seed, filter: all that the files follow from.
    spec = models.JSONField()
    # Empty until it is written: counts by label source, sha256 of each file, software version.
    manifest = models.JSONField(default=dict, blank=True)
    # The hash of the manifest, which names every file's hash.
    sha256 = models.CharField(max_length=64, blank=True)
    folder = models.CharField(max_length=500, blank=True)
    rows = models.PositiveBigIntegerField(default=0)
    downloads = models.PositiveIntegerField(default=0)
    job = models.OneToOneField(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="snapshot")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]


class SavedView(models.Model):
    """A named set of filters of the outputs page."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views")
    name = models.CharField(max_length=100)
    # The page's query string.
    query = models.CharField(max_length=2000)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="saved_view_name_once")]
