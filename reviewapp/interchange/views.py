"""Import page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def import_page(request: HttpRequest, **kw: object) -> HttpResponse:
    return render(request, "base.html")
