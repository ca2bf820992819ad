"""The page that starts a run: what to do, what it will cost and how long it will take, then Start."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from graders import registry
from graders.judge.judge import DEFAULT_MODEL
from llm.types import EFFORTS
from reviewapp import access
from reviewapp.judges import known
from reviewapp.models import Output, Run, Task
from reviewapp.runs.estimate import Plan, plan_graded, plan_gradings, plan_rollouts, why_no_model
from reviewapp.runs.forms import WHICH, GradingForm, RolloutForm, RunForm
from reviewapp.runs.progress import KINDS
from reviewapp.runs.start import start_gradings, start_rollouts


@require_http_methods(["GET", "POST"])
@access.role_required("admin")
def new_run(request: HttpRequest) -> HttpResponse:
    """Choose what to run, see what it will cost and how long it will take, start it."""
    params = request.POST if request.method == "POST" else request.GET
    kind = params.get("kind", "") or Run.Kind.ROLLOUT
    if kind not in KINDS:
        return HttpResponseBadRequest(f"kind is {kind[:60]!r}, allowed: {', '.join(KINDS)}")
    return (new_rollouts if kind == Run.Kind.ROLLOUT else new_gradings)(request, params)


def new_rollouts(request: HttpRequest, params: QueryDict) -> HttpResponse:
    form = RolloutForm(
        params, list(Task.objects.filter(variants__is_current=True).exclude(variants__prompt="").distinct().order_by("slug"))
    )
    why = why_no_model()
    plan = None
    if form.is_filled and form.check() and form.task:
        plan = plan_graded(form.task, plan_rollouts(form.task, form.variants, form.models, form.n), form.graders)
        if request.method == "POST" and not why:
            asked = {"estimate": estimate_json(plan), **({"settings": form.settings} if form.settings else {})}
            graders = [known.row_of(grader) for grader in form.graders]
            started = start_rollouts(
                form.task, form.variants, form.models, form.n, user=request.user, limit_usd=form.limit_usd, asked=asked, graders=graders
            )
            return redirect("run", started.pk)
    models = Output.objects.exclude(model="").order_by("model").values_list("model", flat=True).distinct()[:50]
    ticked = {variant.name for variant in form.variants} if form.is_filled else {variant.name for variant in form.all_variants}
    context = {"variants": [(variant, variant.name in ticked) for variant in form.all_variants], "models": list(models)}
    context["graders"] = [(g, f"{g.name}@{g.version}", g in form.graders, registry.why_not_ready(g)) for g in form.all_graders]
    context |= {"kind": Run.Kind.ROLLOUT.value, "default_models": params.get("models", DEFAULT_MODEL), "n": params.get("n", "10")}
    context |= {"efforts": (*EFFORTS, "none"), "effort": form.effort, "thinking": form.value("thinking"), "turns": form.value("turns")}
    return show_new(request, form, plan, why, context)


def new_gradings(request: HttpRequest, params: QueryDict) -> HttpResponse:
    has_outputs = Exists(Output.objects.filter(task=OuterRef("pk"), is_latest=True))
    tasks = list(Task.objects.filter(has_outputs, rubric__isnull=False).select_related("rubric").order_by("slug"))
    form = GradingForm(params, tasks, user=request.user)
    is_ready, plan = form.check(), None
    why = registry.why_not_ready(form.grader) if form.grader else ""
    if form.task and form.grader and form.row and not form.errors.keys() - {"grader", "which"}:
        plan = plan_gradings(form.task, form.grader, form.output_ids)
    if request.method == "POST" and is_ready and form.task and form.row and plan:
        title = f"{form.task.title}: {form.grader.name if form.grader else ''} on {len(form.output_ids):,} outputs"
        started, done = start_gradings(
            form.row, form.output_ids, title=title, task=form.task, user=request.user, again=form.again, limit_usd=form.limit_usd,
            asked={"outputs": form.which, "again": form.again, "estimate": estimate_json(plan)},
        )  # fmt: skip
        if started:
            return redirect("run", started.pk)
        form.errors["which"] = (
            f"Nothing is left to do: {len(done.done):,} are graded and {len(done.open):,} under way. Tick “again” to repeat them."
        )
    elif request.method == "GET" and not params.get("task"):
        form.errors.clear()  # nothing was asked for yet
    context = {
        "kind": Run.Kind.GRADE.value,
        "graders": [(g, f"{g.name}@{g.version}", g is form.grader, registry.why_not_ready(g)) for g in form.graders],
        "which": [(name, text, name == form.which) for name, text in WHICH.items()],
        "again": form.again,
        "filter": params.get("filter", ""),
    }
    return show_new(request, form, plan, why, context)


def show_new(request: HttpRequest, form: RunForm, plan: Plan | None, why: str, context: dict[str, Any]) -> HttpResponse:
    context |= {"form": form, "plan": plan, "why_not": why, "limit_usd": form.value("limit_usd")}
    template = "runs/new.html#plan" if request.htmx and request.htmx.target == "plan" else "runs/new.html"
    refused = bool(form.errors) or (request.method == "POST" and bool(why))
    return render(request, template, context, status=422 if refused else 200)


def estimate_json(plan: Plan) -> dict[str, Any]:
    return {"cost_usd": plan.cost_usd, "calls": plan.calls, "tokens": plan.tokens, "duration_s": round(plan.duration_s, 1)}
