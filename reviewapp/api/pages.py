"""The Tokens page of a member's settings: make tokens, see when they were used, revoke them."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from reviewapp import access
from reviewapp.api.scopes import SCOPES, scopes_for
from reviewapp.api.tokens import LIFETIMES, TokenForm
from reviewapp.models import ApiToken


@require_http_methods(["GET", "POST"])
@never_cache
@access.role_required("viewer")
def tokens(request: HttpRequest) -> HttpResponse:
    """The answer to the form is the only page that ever shows the token; sent twice, the second is refused for its name."""
    form = TokenForm(request.POST if request.method == "POST" else None, request.user)
    made = form.save() if request.method == "POST" and form.is_valid() else None
    if made:
        form = TokenForm(None, request.user)
    return render(request, "api/tokens.html", _context(request, form, made), status=422 if form.errors else 200)


@require_POST
@access.role_required("viewer")
def revoke_token(request: HttpRequest, pk: int) -> HttpResponse:
    """It stays in the list, and answers no call any more. Pressed twice, nothing more happens."""
    token = get_object_or_404(ApiToken, pk=pk, user=request.user)
    ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
    messages.success(request, f"{token.name} is revoked: calls with it are refused from now on.")
    return redirect("tokens")


def _context(request: HttpRequest, form: TokenForm, made: tuple[ApiToken, str] | None) -> dict[str, Any]:
    rows = sorted(ApiToken.objects.filter(user=request.user), key=lambda token: (token.state != "live", -token.pk))
    return {
        "form": form,
        "made": made[0] if made else None,
        "text": made[1] if made else "",
        "tokens": rows,
        "allowed": [scope.name for scope in scopes_for(request.user)],
        "scopes": list(SCOPES.values()),
        "chosen": form["scopes"].value() or [],
        "lifetimes": LIFETIMES.items(),
        "lifetime": form["expires"].value() or "90",
        "api_url": request.build_absolute_uri("/api/v1/"),
    }
