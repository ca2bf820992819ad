"""The outputs page: a dense list with filters, search and paging by key. What is done from it stands in actions.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET
from django.views.decorators.vary import vary_on_headers

from graders import registry
from reviewapp import access
from reviewapp.judges import known
from reviewapp.models import Output, SavedView, User
from reviewapp.outputs import search
from reviewapp.outputs.blind import is_all_graded, without_labels, without_telling
from reviewapp.outputs.chips import chips_of
from reviewapp.outputs.facets import Counts, count, facets
from reviewapp.outputs.filters import LABEL_STATES, SCORES, VERDICTS, Choices, Filters, load_choices, parse
from reviewapp.outputs.paging import COLUMNS, DEFAULT_ORDER, Cursor, Order, Page, parse_cursor, parse_order, read_page
from reviewapp.outputs.queries import filtered, for_list, graded_by, snippets
from reviewapp.queues.gold import hide_gold, may_find_gold

MOST_SELECTED = 10_000
# Filters that stand behind "More filters".
MORE = (
    *("variant", "run", "grader", "reviewer", "sample", "flagged"),
    *("judge", "disagreement_min", "failure", "score_of", "score_min", "score_max"),
)


@dataclass(frozen=True)
class Row:
    output: Output
    is_hidden: bool
    snippet: str = ""


@dataclass
class Listing:
    """What a query string asks for, with what of it holds for this person."""

    filters: Filters
    order: Order
    cursor: Cursor | None
    choices: Choices
    hides_judge: bool
    is_blind: bool
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Whether a queue holds gold items that this person must not find.
    hides_labels: bool = False

    @property
    def query(self) -> str:
        """Filters and order: what a saved view keeps."""
        return with_order(self.filters.query, self.order)


@require_GET
@vary_on_headers("HX-Request", "HX-Target")
@access.role_required("viewer")
def outputs(request: HttpRequest) -> HttpResponse:
    return show_list(request, request.GET)


def show_list(request: HttpRequest, params: QueryDict, *refused: str) -> HttpResponse:
    """The page, or the part that htmx asks for; 422 with what was wrong and all that could be read."""
    listing = read_listing(request, params)
    listing.problems += refused
    outputs = filtered(listing.filters, request.user)
    counts = count(listing.filters, outputs, request.user, listing.choices)
    page = read_page(for_list(outputs), listing.order, listing.cursor, is_few=bool(listing.filters) and not counts.is_more)
    context = {
        "listing": listing,
        "may_show_judge": request.user.has_role(User.Role.ADJUDICATOR),
        "rows": rows_of(request.user, listing, page),
        "columns": columns_of(listing),
        "shows_task": len(listing.filters.task) != 1,
        "next_query": f"{listing.query}&{urlencode({'after': page.next})}".lstrip("&") if page.next else "",
    }
    part = request.htmx.target if request.htmx and not request.htmx.history_restore_request else ""
    if part == "more" and not listing.problems:
        return render(request, "outputs/outputs.html#more", context)
    context |= page_context(request, listing, counts)
    template = f"outputs/outputs.html{'#browse' if part == 'browse' else ''}"
    response = render(request, template, context, status=422 if listing.problems else 200)
    if part == "browse":
        response["HX-Push-Url"] = f"{reverse('outputs')}?{listing.query}".rstrip("?")
    return response


def read_listing(request: HttpRequest, params: QueryDict) -> Listing:
    choices = load_choices()
    filters, problems = parse(params, choices)
    order, problem = parse_order(params.get("sort", ""))
    problems += [problem] if problem else []
    hides, notes = request.user.hides_judges, []
    if hides_labels := hides and may_find_gold(request.user):
        filters, notes = without_labels(filters, request.user)
    is_blind = hides and not is_all_graded(filters, request.user)
    after = params.get("after", "")
    if is_blind:
        asked = order
        filters, order, more = without_telling(filters, asked)
        notes += more
        after = after if order == asked else ""  # a place in the other order is none in this
    cursor, problem = parse_cursor(after, order)
    problems += [problem] if problem else []
    return Listing(filters, order, cursor, choices, hides, is_blind, problems, notes, hides_labels)


def rows_of(user: User, listing: Listing, page: Page) -> list[Row]:
    graded = graded_by(user, page.rows) if listing.is_blind else set()
    hide_gold([row for row in page.rows if not listing.is_blind or row.pk in graded], user)
    found = snippets(page.rows, listing.filters.q) if search.terms_of(listing.filters.q) else {}
    return [Row(output, listing.is_blind and output.pk not in graded, found.get(output.pk, "")) for output in page.rows]


def columns_of(listing: Listing) -> dict[str, dict[str, Any]]:
    """Each sortable column's heading: a link that sorts by it, and the other way round where it is sorted already."""
    columns = {}
    for key, column in COLUMNS.items():
        is_current = listing.order.key == key
        to = Order(key, descending=not (is_current and listing.order.descending))
        direction = "" if not is_current else "descending" if listing.order.descending else "ascending"
        query = with_order(listing.filters.query, to)
        columns[key] = {"title": column.title, "sorted": direction, "query": query, "is_closed": column.is_telling and listing.is_blind}
    return columns


def page_context(request: HttpRequest, listing: Listing, counts: Counts) -> dict[str, Any]:
    """What stands around the rows."""
    filters, choices = listing.filters, listing.choices
    everything = count(Filters(), filtered(Filters()), request.user, choices) if filters else counts
    trigger = request.htmx.trigger_name if request.htmx else ""
    return {
        "counts": counts,
        "is_workspace_empty": not everything.total,
        "chips": chips_of(filters, choices),
        "facets": facets(filters, counts, choices, is_blind=listing.is_blind, hides_labels=listing.hides_labels),
        "models": sorted(everything.by_model),
        "failures": sorted(everything.by_failure),
        "verdicts": VERDICTS,
        "scores": SCORES,
        "labels": [(value, "Labelled by people" if value == "labelled" else Output.LabelState(value).label) for value in LABEL_STATES],
        "task_title": next((task.title for task in choices.tasks if task.slug in filters.task), ""),
        "is_task_open": trigger == "tasks",
        "is_more_open": trigger == "more" or any(getattr(filters, name) not in ("", None) for name in MORE),
        "n_more": sum(getattr(filters, name) not in ("", None) for name in MORE if name != "score_of"),
        "saved_views": saved_views(request.user, listing),
        "graders": graders_for(choices, filters) if request.user.has_role(User.Role.ADMIN) else [],
        "most_selected": MOST_SELECTED,
        "has_words": bool(search.terms_of(filters.q)),
        "unindexed": search.count_unindexed() if filters.q else 0,
    }


def saved_views(user: User, listing: Listing) -> list[dict[str, Any]]:
    views = SavedView.objects.filter(owner=user)
    return [{"pk": view.pk, "name": view.name, "query": view.query, "is_current": view.query == listing.query} for view in views]


def graders_for(choices: Choices, filters: Filters) -> dict[str, registry.Grader]:
    """The graders that can grade the tasks that are shown, by the name under which a form tells them: those of people last."""
    slugs = filters.task or [task.slug for task in choices.tasks]
    found = {grader.name: grader for slug in slugs for grader in registry.for_task(slug)}
    setup = {(grader.name, grader.version) for grader in found.values()}
    saved = [judge for judge in reversed(known.saved_judges()) if (judge.name, judge.version) not in setup]
    return found | {f"{judge.name}@{judge.version}": judge for judge in saved if set(slugs) & set(judge.tasks)}


def with_order(query: str, order: Order) -> str:
    sort = urlencode({"sort": order}) if order != DEFAULT_ORDER else ""
    return "&".join(part for part in (query, sort) if part)
