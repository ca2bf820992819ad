"""Django's admin: members can be managed; everything else can be looked at only."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.http import HttpRequest

from reviewapp import models


@admin.register(models.User)
class MemberAdmin(UserAdmin):
    list_display = ("username", "role", "is_active", "last_login")
    list_filter = ("role", "is_active")
    fieldsets = (*UserAdmin.fieldsets, ("Role", {"fields": ("role",)}))
    add_fieldsets = (*UserAdmin.add_fieldsets, ("Role", {"fields": ("role",)}))


class ReadOnlyAdmin(admin.ModelAdmin):
    """Facts and versions: neither added, changed nor deleted here."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


for model in (
    models.Task,
    models.Variant,
    models.Rubric,
    models.Grader,
    models.Run,
    models.Output,
    models.Grade,
    models.Job,
    models.Snapshot,
):
    admin.site.register(model, ReadOnlyAdmin)
