"""Pass rates and ablations: by prompt variant, model or both, with criteria and ways to fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET
from django.views.decorators.vary import vary_on_headers

from reviewapp import access
from reviewapp.calibration.behind import graded_only
from reviewapp.calibration.grades import judge_versions
from reviewapp.calibration.report import remembered
from reviewapp.home.queries import pick_judge
from reviewapp.models import Grader, Output, Task, User
from reviewapp.runs.ablation_charts import heat_chart, rates_chart, sentences
from reviewapp.runs.ablations import BY, NO_CATEGORY, Ablation, Group, ablation_of, as_json

NAMES = ("task", "grader", "by")
PEOPLE = "people"
EXAMPLES = 3


@dataclass(frozen=True)
class Asked:
    """What the address asks for; `grader` None is people."""

    tasks: tuple[Task, ...]
    task: Task | None
    graders: tuple[Grader, ...]
    grader: Grader | None
    by: str
    problems: tuple[str, ...]

    def query(self, **changes: Any) -> str:
        told = {"task": self.task.slug if self.task else "", "grader": name_of(self.grader), "by": self.by} | changes
        return urlencode({name: value for name, value in told.items() if value and (name, value) != ("by", "variant")})


@require_GET
@vary_on_headers("HX-Request")
@access.role_required("viewer")
def ablations(request: HttpRequest) -> HttpResponse:
    asked = ask(request.GET)
    context: dict[str, Any] = {"asked": asked, "by_choices": [(by, by_title(by), asked.query(by=by)) for by in BY]}
    context["task_choices"] = [(task, asked.query(task=task.slug, grader="")) for task in asked.tasks]
    context["grader_choices"] = [(name_of(g), str(g), asked.query(grader=name_of(g))) for g in asked.graders]
    context["grader_choices"].append((PEOPLE, "people, blind", asked.query(grader=PEOPLE)))
    context |= {"chosen": name_of(asked.grader), "may_start": request.user.has_role("admin")}
    if asked.task:
        context |= page_context(asked, ablation_of(asked.task, asked.grader, asked.by), request.user)
    template = "runs/ablations.html#ablations" if request.htmx and not request.htmx.history_restore_request else "runs/ablations.html"
    return render(request, template, context, status=422 if asked.problems else 200)


@require_GET
@access.role_required("viewer")
def ablations_json(request: HttpRequest) -> HttpResponse:
    """All figures of the page, for programs and notebooks."""
    asked = ask(request.GET)
    if asked.problems or asked.task is None:
        return JsonResponse({"problems": list(asked.problems) or ["there is no task with outputs"]}, status=422)
    found = as_json(asked.task, asked.grader, asked.by, ablation_of(asked.task, asked.grader, asked.by))
    response = JsonResponse(found, json_dumps_params={"ensure_ascii": False, "indent": 1})
    response["Content-Disposition"] = f'attachment; filename="ablations-{asked.task.slug}.json"'
    return response


def ask(params: QueryDict) -> Asked:
    """The task named, else the first with outputs; its primary grader unless another is named."""
    has_outputs = Exists(Output.objects.filter(task=OuterRef("pk"), is_latest=True))
    tasks = tuple(Task.objects.filter(has_outputs).select_related("rubric").order_by("slug"))
    problems = [f"{name[:60]!r} is no part of this page's address. There are: {', '.join(NAMES)}." for name in params if name not in NAMES]
    task = pick("task", params, {t.slug: t for t in tasks}, tasks[0] if tasks else None, problems)
    graders: Sequence[Grader] = remembered(task, "judges", lambda: judge_versions(task)) if task else ()
    known: dict[str, Grader | None] = {g.name: g for g in graders} | {name_of(g): g for g in graders} | {PEOPLE: None}
    grader = pick("grader", params, known, pick_judge(graders, task.primary_grader) if task else None, problems)
    by = pick("by", params, {name: name for name in BY}, BY[0], problems)
    return Asked(tasks, task, tuple(graders), grader, by, tuple(problems))


def pick(name: str, params: QueryDict, known: dict[str, Any], default: Any, problems: list[str]) -> Any:
    value = params.get(name, "")
    if not value or value in known:
        return known[value] if value else default
    allowed = ", ".join(list(known)[:12]) or "none, nothing is there yet"
    problems.append(f"{name} is {value[:60]!r}, allowed: {allowed}. The default is shown.")
    return default


def page_context(asked: Asked, made: Ablation, user: User) -> dict[str, Any]:
    task = asked.task
    assert task is not None
    links = [group_query(task, group) for group in made.groups]
    examples = examples_of(made, user)
    return {
        "task": task,
        "made": made,
        "by_title": by_title(asked.by),
        "said": sentences(made, task, asked.grader),
        "rows": list(zip(made.groups, links, strict=True)),
        "all_query": urlencode({"task": task.slug}),
        "ks": list(made.total.pass_at_k),
        "criteria": [(i, cell) for i, cell in enumerate(made.total.cells)],
        "failures": [
            {"failure": f, "examples": examples[f.category], "link": failure_link(asked, f.category, user)} for f in made.failures
        ],
        "charts": {
            "rates": rates_chart(made, task, asked.grader, links, f"{reverse('outputs')}?"),
            "criteria": heat_chart(made, task),
        },
        "query": asked.query(),
    }


def group_query(task: Task, group: Group) -> str:
    """The filter of the outputs page that gives this group."""
    told = {"task": task.slug, "variant": group.variant, "model": group.model}
    return urlencode({name: value for name, value in told.items() if value})


def examples_of(made: Ablation, user: User) -> dict[str, list[Output]]:
    """A few failed outputs of each category; who works blind sees those that they have graded. Two queries."""
    allowed = set(graded_only([pk for f in made.failures for pk in f.examples], user))
    shown = {f.category: [pk for pk in f.examples if pk in allowed][:EXAMPLES] for f in made.failures}
    outputs = Output.objects.only("id", "external_id").in_bulk([pk for ids in shown.values() for pk in ids])
    return {category: [outputs[pk] for pk in ids if pk in outputs] for category, ids in shown.items()}


def failure_link(asked: Asked, category: str, user: User) -> str:
    """All of a category on the outputs page: that knows the primary grader's, and keeps them from who works blind."""
    task = asked.task
    if task is None or user.hides_judges or category == NO_CATEGORY or asked.grader != pick_judge(asked.graders, task.primary_grader):
        return ""
    return f"{reverse('outputs')}?{urlencode({'task': task.slug, 'failure': category})}"


def name_of(grader: Grader | None) -> str:
    return f"{grader.name}@{grader.version}" if grader else PEOPLE


def by_title(by: str) -> str:
    return {"variant": "prompt variant", "model": "model", "both": "variant and model"}[by]
