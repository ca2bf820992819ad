"""Who may do what. Called at the top of a view, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

View = Callable[..., HttpResponse]


def role_required(role: str) -> Callable[[View], View]:
    """Let in members with this role or a higher one; others get 403 with a page that says why."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not request.user.has_role(role):
                raise PermissionDenied(f"This needs the role of {role} or higher; yours is {request.user.role}.")
            return view(request, *args, **kwargs)

        return guarded

    return decorate
