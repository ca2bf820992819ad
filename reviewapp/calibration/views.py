"""The calibration page: how far each judge can be trusted, in sentences, charts and tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET
from django.views.decorators.vary import vary_on_headers

from reviewapp import access
from reviewapp.calibration.behind import MOST, BadMark, graded_only, items_behind, outputs_behind
from reviewapp.calibration.explain import rows_of, severities, tables
from reviewapp.calibration.grades import MODES
from reviewapp.calibration.labels import label_facts
from reviewapp.calibration.question import EPSILONS, NAMES, Asked, ask
from reviewapp.calibration.report import Report, draws_of, grades_of, report_of, scope_of
from reviewapp.calibration.rubric import needs_rubric
from reviewapp.home.queries import summary_of, task_summaries
from reviewapp.models import Output, Task, User
from reviewapp.queues.forms import query_of_random_queue

SHOWN_DIFFER = 10


@require_GET
@access.role_required("viewer")
def calibration_index(request: HttpRequest) -> HttpResponse:
    rows = [(task, summary) for task, summary in task_summaries() if summary.n_outputs]
    return render(request, "calibration/index.html", {"rows": rows})


@require_GET
@vary_on_headers("HX-Request")
@access.role_required("viewer")
@needs_rubric
def calibration(request: HttpRequest, task: Task) -> HttpResponse:
    """The page, or the part below its heading that htmx asks for; 422 with what was wrong of the address."""
    asked = ask(task, request.GET)
    context = {"task": task, "asked": asked, **page_context(asked, request.user)}
    is_part = request.htmx and request.htmx.target == "report" and not request.htmx.history_restore_request
    template = f"calibration/calibration.html{'#report' if is_part else ''}"
    return render(request, template, context, status=422 if asked.problems else 200)


@require_GET
@access.role_required("viewer")
@needs_rubric
def calibration_outputs(request: HttpRequest, task: Task) -> HttpResponse:
    """Lead on to the outputs behind a mark of a chart: to the one, or to the list of them."""
    of_page = request.GET.copy()
    for name in [name for name in of_page if name not in NAMES]:
        del of_page[name]
    asked = ask(task, of_page)
    if asked.problems:  # another judge's outputs lie there
        return _refused(request, asked)
    grades = grades_of(task, asked.question.judge, asked.question.mode)
    items, _ = scope_of(asked.question, grades, draws_of(grades, n_boot=1))
    try:
        mask = items_behind(items, grades, request.GET, NAMES)
    except BadMark as error:
        return _refused(request, replace(asked, problems=(f"{error}.",)))
    ids = outputs_behind(items, grades, mask, request.user)
    if not ids:
        some = mask.any() and request.user.hides_judges
        messages.warning(request, "You have graded none of these yet, and you work blind." if some else "No output lies there.")
        return redirect(f"{reverse('calibration', args=[task.slug])}?{asked.query()}")
    if len(ids) > MOST:
        messages.info(request, f"The {MOST} of {len(ids):,} outputs on which judge and people differ most.")
    return redirect("review", ids[0]) if len(ids) == 1 else redirect(list_of(task, ids[:MOST]))


def _refused(request: HttpRequest, asked: Asked) -> HttpResponse:
    context = {"task": asked.question.task, "asked": asked, **page_context(asked, request.user)}
    return render(request, "calibration/calibration.html", context, status=422)


@require_GET
@access.role_required("viewer")
@needs_rubric
def calibration_labels(request: HttpRequest, task: Task) -> HttpResponse:
    """About the labels: how they were drawn, what seeing the judge does, versions and time, how many more it takes."""
    asked = ask(task, request.GET)
    facts, base = label_facts(asked.question, asked.versions), outputs_url(task, asked)
    charts = {name: chart | {"base": base} for name, chart in facts.charts.items()}
    context = {"task": task, "asked": asked, "labels": {"sentences": facts.sentences, "charts": charts, "more": facts.more}}
    context["influences"] = rows_of("influences", facts.texts)
    context |= {"queue": query_of_random_queue(task, asked.question.judge, size=facts.more), "may_queue": request.user.has_role("reviewer")}
    template = f"calibration/labels.html{'#labels' if request.htmx else ''}"
    return render(request, template, context, status=422 if asked.problems else 200)


@require_GET
@access.role_required("viewer")
def calibration_rates(request: HttpRequest, slug: str) -> HttpResponse:
    """The task's three pass rates, for the pages that name it; without htmx its calibration page has them."""
    task = get_object_or_404(Task.objects.select_related("rubric"), slug=slug)
    if not request.htmx:
        return redirect("calibration", slug)
    summary = summary_of(task)
    judge = next((r.estimate for r in summary.rates if r.grader == summary.judge), None)
    return render(request, "calibration/rates_part.html", {"task": task, "s": summary, "judge": judge})


def page_context(asked: Asked, user: User) -> dict[str, Any]:
    task, question = asked.question.task, asked.question
    report = report_of(question)
    criteria = list(task.rubric.criteria.all())
    base = outputs_url(task, asked)
    graded_by = urlencode({"grader": question.judge.name}) if question.judge else ""
    drawn = {name: chart | {"base": base, "page": f"?{asked.query(criterion='')}"} for name, chart in report.charts.items()}
    return {
        "question": question,
        "report": report,
        "overview": [row | {"query": asked.query(criterion=row["key"])} for row in report.overview],
        "charts": drawn,
        "tables": tables(report.figures, has_judge=question.judge is not None),
        "confusion": confusion(report, base),
        "differ": differ_rows(report, user),
        "annotators": annotators(report),
        "severities": severities(report.figures),
        "judges": [(g, asked.query(judge=f"{g.name}@{g.version}")) for g in asked.judges],
        "versions": versions_of(asked),
        "modes": [(mode, report.labelled_by_mode[mode], asked.query(mode=mode)) for mode in MODES],
        "scopes": [("", "All criteria", asked.query(criterion=""))] + [(c.key, c.title, asked.query(criterion=c.key)) for c in criteria],
        "epsilons": [(value, who, asked.query(epsilon=f"{value:g}")) for value, who in EPSILONS],
        "query": asked.query(),
        "overlap_queue": query_of_random_queue(task, question.judge, filter=graded_by),
        "may_queue": user.has_role("reviewer"),
    }


def versions_of(asked: Asked) -> list[tuple[Any, str]]:
    """The versions of the judge in question, where there are several."""
    judge = asked.question.judge
    same = [g for g in asked.versions if judge and g.name == judge.name]
    return [(g, asked.query(judge=f"{g.name}@{g.version}")) for g in same] if len(same) > 1 else []


def confusion(report: Report, base: str) -> dict[str, Any] | None:
    """The four cells with their share and the address of their outputs."""
    counts = report.figures["judge"]["confusion"]["value"]
    if counts is None:
        return None
    total = sum(counts.values())
    cells = (("true_pass", 1, 1), ("false_pass", 1, 0), ("false_fail", 0, 1), ("true_fail", 0, 0))
    return {
        name: {"n": counts[name], "share": counts[name] / total, "href": f"{base}&judge_passes={judge}&human_passes={human}"}
        for name, judge, human in cells
    }


def annotators(report: Report) -> list[dict[str, Any]]:
    test = report.figures["alt_test"]
    return [{"name": name, "p_value": p, "advantage": test["advantage"][name]} for name, p in test["p_values"].items()]


def differ_rows(report: Report, user: User) -> list[dict[str, Any]]:
    allowed = set(graded_only([d.output_id for d in report.differ], user))
    shown = [d for d in report.differ if d.output_id in allowed][:SHOWN_DIFFER]
    outputs = Output.objects.select_related("variant").defer("metadata").in_bulk({d.output_id for d in shown})
    return [{"output": outputs[d.output_id], "differ": d} for d in shown]


def outputs_url(task: Task, asked: Asked) -> str:
    """Where a mark of a chart leads, less the mark itself."""
    return f"{reverse('calibration_outputs', args=[task.slug])}?{asked.query()}"


def list_of(task: Task, ids: list[int]) -> str:
    return f"{reverse('outputs')}?{urlencode({'task': task.slug, 'ids': '.'.join(map(str, ids))})}"
