"""The one Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate


class ReviewAppConfig(AppConfig):
    name = "reviewapp"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Touchstone"

    def ready(self) -> None:
        post_migrate.connect(keep_append_only, sender=self)


def keep_append_only(using: str, plan: Any = (), **kwargs: Any) -> None:
    """Install the append-only triggers anew: on SQLite a migration that alters a table makes it anew, without them."""
    from reviewapp.models.append_only import install_triggers  # noqa: PLC0415 - models load after the app

    if plan and not any(is_backwards for _, is_backwards in plan):
        install_triggers(connections[using])
