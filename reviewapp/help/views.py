"""Pages of docs/, so that a figure's explanation is one click away, also without a network."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET

from reviewapp import access
from reviewapp.help.guide import PAGES, render_page


@require_GET
@access.role_required("viewer")
def help_index(request: HttpRequest) -> HttpResponse:
    return redirect("help", "calibration")


@require_GET
@access.role_required("viewer")
def help_page(request: HttpRequest, name: str) -> HttpResponse:
    if name not in PAGES:
        raise Http404(f"There is no page {name!r} in the guide.")
    return render(request, "help/page.html", {"page": render_page(name), "pages": PAGES, "name": name})
