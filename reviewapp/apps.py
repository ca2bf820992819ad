"""The one Django app."""

from django.apps import AppConfig


class ReviewAppConfig(AppConfig):
    name = "reviewapp"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Touchstone"
