"""Read outputs: the list with the filters of its page, and one of them. Who works blind on the pages does so here."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from django.db.models import prefetch_related_objects
from django.http import Http404, HttpRequest

from reviewapp.api.app import api
from reviewapp.api.auth import Bearer
from reviewapp.api.errors import ApiError, Problem, refused
from reviewapp.api.facts import output_json, row_json
from reviewapp.outputs.facets import count
from reviewapp.outputs.filters import LARGEST_ID, Filters, is_id
from reviewapp.outputs.paging import PAGE_SIZE, SORTS, read_page
from reviewapp.outputs.queries import filtered, for_list
from reviewapp.outputs.views import read_listing, rows_of
from reviewapp.review.sitting import SCORES, sit_down

MOST_ROWS = 200
SENTENCE = re.compile(r"(?P<name>\w+) is '(?P<seen>.*)', allowed: (?P<allowed>.*)\. It was left out\.", re.S)


def _parameters() -> list[dict[str, Any]]:
    """For the OpenAPI description: each filter of the page, and what pages through the list."""
    found = [{"name": f.name, "in": "query", "required": False, "schema": {"type": "string"}} for f in fields(Filters)]
    found[0]["schema"] = {"type": "array", "items": {"type": "string"}}
    paging: dict[str, dict[str, Any]] = {
        "sort": {"type": "string", "enum": list(SORTS)},
        "after": {"type": "string", "description": "`next` of the page before"},
        "limit": {"type": "integer", "minimum": 1, "maximum": MOST_ROWS, "default": PAGE_SIZE},
    }
    return [*found, *({"name": name, "in": "query", "required": False, "schema": schema} for name, schema in paging.items())]


@api.get("outputs", auth=Bearer("read"), tags=["outputs"], openapi_extra={"parameters": _parameters()})
def list_outputs(request: HttpRequest) -> dict[str, Any]:
    """The latest version of each output that the filters keep, newest first or by `sort`; `next` is the cursor of the next page."""
    params = request.GET.copy()
    size = _limit(params.pop("limit", [""])[-1])
    listing = read_listing(request, params)
    if listing.problems:
        raise _refusal(listing.problems)
    if listing.notes:  # a program would not notice that a filter was left out
        raise ApiError(403, " ".join(listing.notes).replace("It was left out", "It is refused"))
    outputs = filtered(listing.filters, request.user)
    counts = count(listing.filters, outputs, request.user, listing.choices)
    is_few = bool(listing.filters) and not counts.is_more
    page = read_page(for_list(outputs), listing.order, listing.cursor, is_few=is_few, size=size)
    return {
        "outputs": [row_json(row) for row in rows_of(request.user, listing, page)],
        "next": str(page.next) if page.next else None,
        "total": counts.total,
        "total_is_at_least": counts.is_more,
    }


@api.get("outputs/{int:pk}", auth=Bearer("read"), tags=["outputs"])
def read_output(request: HttpRequest, pk: int) -> dict[str, Any]:
    """One output with content, prompt, transcript, rubric, and its newest 100 grades.

    For a reviewer who has yet to grade it, all that others said is null, and so are model and variant; their own grade opens it.
    """
    sitting = sit_on(request, pk)
    prefetch_related_objects([*sitting.grades, *sitting.mine], SCORES)
    return output_json(sitting)


def sit_on(request: HttpRequest, pk: int, *, lock: bool = False) -> Any:
    """The person at the output; a 404 that names it."""
    try:
        if pk > LARGEST_ID:
            raise Http404
        return sit_down(request.user, pk, lock=lock)
    except Http404:
        raise Http404(f"There is no output {pk}.") from None


def _limit(text: str) -> int:
    if not text:
        return PAGE_SIZE
    if not is_id(text) or not 1 <= int(text) <= MOST_ROWS:
        raise refused("query.limit", text, f"1 to {MOST_ROWS}")
    return int(text)


def _refusal(sentences: list[str]) -> ApiError:
    """The page's sentences on what it left out: here nothing is left out, so they end the call."""
    problems = []
    for sentence in sentences:
        found = SENTENCE.fullmatch(sentence)
        if found:
            problems.append(Problem(f"query.{found['name']}", found["seen"], found["allowed"]))
        else:
            problems.append(Problem("query", None, sentence))
    return ApiError(422, " ".join(sentence.removesuffix(" It was left out.") for sentence in sentences), problems)
