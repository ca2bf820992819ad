"""Runs."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def runs(request: HttpRequest) -> HttpResponse:
    return render(request, "runs/runs.html")


def new_run(request: HttpRequest) -> HttpResponse:
    return render(request, "runs/runs.html")
