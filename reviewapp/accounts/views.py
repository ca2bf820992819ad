"""The style guide: every part of the visual language on one page, for who builds screens."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from graders.calibration.result import Estimate


@require_GET
def styleguide(request: HttpRequest) -> HttpResponse:
    return render(request, "styleguide.html", {"estimate": Estimate(0.22, 0.12, 0.35, 60)})
