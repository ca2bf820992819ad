"""Tasks page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def tasks(request: HttpRequest, **kw: object) -> HttpResponse:
    return render(request, "base.html")


def task(request: HttpRequest, **kw: object) -> HttpResponse:
    return render(request, "base.html")
