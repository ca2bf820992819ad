"""What the tests of the review page do over and over, as a reviewer's browser would."""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from reviewapp.models import Output

IDEA = {"viability": "6", "upside": "8", "success": "4", "novelty": "7"}


def page(client: Client, output: Output, query: str = "") -> str:
    response = client.get(reverse("review", args=[output.pk]) + query)
    assert response.status_code == 200
    return response.content.decode()


def post(client: Client, name: str, output: Output, htmx: bool = False, **data: Any) -> HttpResponse:
    """Post to an action of the review page; `answer_x` stands for the field answer.x."""
    fields = {re.sub(r"^(answer|note|half|quote)_", r"\1.", key): value for key, value in data.items()}
    return client.post(reverse(f"review_{name}", args=[output.pk]), fields, headers={"HX-Request": "true"} if htmx else {})


def answers(scores: dict[str, str]) -> dict[str, str]:
    return {f"answer.{key}": value for key, value in scores.items()}


def field(html: str, name: str) -> str:
    """The value of a hidden field of the page's form."""
    return re.search(rf'name="{name}" value="([^"]*)"', html)[1]


def submit(client: Client, output: Output, scores: dict[str, str] = IDEA, **data: Any) -> HttpResponse:
    """Open the page and submit its form."""
    html = page(client, output)
    return post(client, "submit", output, base=field(html, "base"), seen=field(html, "seen"), **answers(scores), **data)
