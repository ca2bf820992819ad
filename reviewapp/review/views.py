"""Review page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def review(request: HttpRequest, **kw: object) -> HttpResponse:
    return render(request, "base.html")


def review_next(request: HttpRequest, **kw: object) -> HttpResponse:
    return render(request, "base.html")
