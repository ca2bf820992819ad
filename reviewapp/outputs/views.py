"""Outputs page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def outputs(request: HttpRequest, **kw: object) -> HttpResponse:
    return render(request, "base.html")
