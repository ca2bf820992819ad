"""Judges: their versions, the page of one, the editor that makes the next one, and which version counts for a task."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from graders.judge.grader import JudgeGrader
from graders.judge.judge import PLACES, Judge
from graders.judge.prompt import TASK_AS_DATA, data_block, system_prompt
from llm.types import EFFORTS
from reviewapp import access
from reviewapp.catalog.sync import spec_of
from reviewapp.jobs import queue
from reviewapp.judges import known, pairs, queries, versions
from reviewapp.judges.calibrators import calibrators_of
from reviewapp.judges.queries import OnTask
from reviewapp.judges.trying import Trial, left_to_try, trial_of
from reviewapp.models import Grader, Job, JudgeVersion, Output, Promotion, Task
from reviewapp.outputs.filters import is_id
from reviewapp.runs.estimate import why_no_model
from reviewapp.runs.start import start_gradings

SHOWN_CHARS = 4_000
HISTORY = 12


@dataclass(frozen=True)
class Seen:
    """A version as its page shows it. `plain` None: what it asks is not known here, so that it can't be asked."""

    row: Grader
    saved: JudgeVersion | None
    plain: JudgeGrader | None


@require_GET
@access.role_required("viewer")
def judges(request: HttpRequest) -> HttpResponse:
    seen: set[int] = set()
    history = []
    for promotion in Promotion.objects.select_related("task", "by").order_by("-id")[:HISTORY]:
        history.append((promotion, promotion.task_id not in seen))
        seen.add(promotion.task_id)
    context = {"rows": queries.judge_rows(), "history": history, "why_not": why_no_model(), "may_change": request.user.has_role("admin")}
    return render(request, "judges/judges.html", context)


@require_GET
@access.role_required("viewer")
def judge(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """The page; or, while somebody fills in a trial, its estimate."""
    seen = see(name, version)
    if request.htmx and (request.htmx.target or "").startswith("estimate-"):
        return estimate(request, seen)
    return show(request, seen)


def estimate(request: HttpRequest, seen: Seen) -> HttpResponse:
    slug = request.GET.get("task", "")
    on = next((on for on in on_tasks_of(seen) if on.task.slug == slug), None)
    trial = trial_of(on, seen.row, seen.plain, request.GET) if on else None
    if trial is None:
        raise Http404(f"there is nothing to try on {slug[:60]}")
    return render(request, "judges/estimate.html", {"on": on, "trial": trial}, status=422 if trial.errors else 200)


def on_tasks_of(seen: Seen) -> list[OnTask]:
    return queries.on_tasks(seen.row, seen.plain.tasks if seen.plain else ())


def see(name: str, version: str) -> Seen:
    row = Grader.objects.filter(kind=Grader.Kind.LLM_JUDGE, name=name, version=version).order_by("-id").first()
    setup = queries.set_up_judge()
    if row is None and setup and (setup.name, setup.version) == (name, version):
        row = known.row_of(setup)
    if row is None:
        raise Http404(f"there is no judge {name} in version {version}")
    saved = JudgeVersion.objects.select_related("created_by").filter(grader=row).first()
    if saved:
        plain = known.plain_of(row)
        return Seen(row, saved, plain if isinstance(plain, JudgeGrader) else None)
    return Seen(row, None, setup if setup and setup.sha256 == row.sha256 else None)


def show(request: HttpRequest, seen: Seen, *, problem: str = "", status: int = 200) -> HttpResponse:
    params = request.POST if request.method == "POST" else request.GET
    context = {
        "row": seen.row,
        "saved": seen.saved,
        "plain": seen.plain,
        "tasks": [(on, trial_of(on, seen.row, seen.plain, params)) for on in on_tasks_of(seen)],
        "pairs": [(task, pairs.summary_of(seen.row, task)) for task in pairs.tasks_of(seen.row)],
        "verdicts": [] if request.user.hides_judges else pairs.newest_of(seen.row),
        "why_not": why_no_model() if seen.plain else "",
        "may_change": request.user.has_role("admin"),
        "problem": problem,
    }
    return render(request, "judges/judge.html", context, status=status)


@require_GET
@access.role_required("viewer")
def judge_calibrators(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """The part of the page that fits maps to labels, which takes longer than the page may."""
    row = see(name, version).row
    context = {"row": row, "calibrators": calibrators_of(row), "may_queue": request.user.has_role("reviewer")}
    return render(request, f"judges/calibrators.html{'#calibrators' if request.htmx else ''}", context)


@require_http_methods(["GET", "POST"])
@access.role_required("admin")
def new_judge(request: HttpRequest) -> HttpResponse:
    """The editor: begins as the version named by `from`, and saves a new one; with `look` it shows the prompt alone."""
    params = request.POST if request.method == "POST" else request.GET
    begins_as = params.get("from", "")
    starts = starts_of()
    form = versions.JudgeForm(params, starts.get(begins_as, starts[""]))
    problem = ""
    if begins_as not in starts and request.method == "GET":
        problem = f"from is {begins_as[:60]!r}, allowed: {', '.join(list(starts)[1:13]) or 'nothing, there is no judge to begin as'}."
    made = form.judge() if request.method == "POST" or "look" in params else None
    if request.method == "POST" and made and "look" not in params:
        saved, is_new = versions.save_version(made, note=form.value("note"), user=request.user)
        text = f"Saved {saved}." if is_new else f"This is {saved} word for word: nothing new was saved."
        messages.success(request, text)
        return redirect("judge", made.name, saved.grader.version)
    tasks = list(Task.objects.filter(rubric__isnull=False).order_by("slug"))
    context = {"form": form, "efforts": (*EFFORTS, "none"), "places": PLACES, "tasks": tasks, "from": begins_as, "problem": problem}
    context |= {"task_slug": params.get("task", ""), "output": params.get("output", "")}
    if made:
        context["preview"] = preview(made, params.get("task", ""), params.get("output", ""), form)
    template = "judges/new.html#preview" if request.htmx and request.htmx.target == "preview" else "judges/new.html"
    return render(request, template, context, status=422 if form.errors or problem else 200)


def starts_of() -> dict[str, Judge]:
    """The judges that a new version can begin as, by "name@version"; by "" the one of the environment, or the built-in one."""
    setup = queries.set_up_judge()
    named = {f"{g.name}@{g.version}": g.judge for g in [*filter(None, [setup]), *known.saved_judges()]}
    return {"": setup.judge if setup else Judge()} | named


def preview(made: Judge, slug: str, output_id: str, form: versions.JudgeForm) -> dict[str, object] | None:
    """The request as it will be sent about one output, and the version that this judge will have."""
    outputs = Output.objects.select_related("task__rubric", "variant", "body").filter(is_latest=True, task__rubric__isnull=False)
    if output_id and not is_id(output_id):
        form.refuse("output", output_id, "the number of an output")
        return None
    found = outputs.filter(pk=int(output_id)).first() if output_id else outputs.filter(task__slug=slug).order_by("id").first()
    if output_id and found is None:
        form.refuse("output", output_id, "the number of an output that is there")
        return None
    task = found.task if found else Task.objects.filter(slug=slug, rubric__isnull=False).first()
    if task is None:
        return None
    text = found.body.content if found else ""
    data = f"{TASK_AS_DATA.format(boundary='…')}\n\n{data_block(text[:SHOWN_CHARS], '…').text}"
    return {"system": system_prompt(made, spec_of(task)), "data": data, "output": found, "task": task, "judge": made}


@require_POST
@access.role_required("admin")
def try_judge(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Have it grade the outputs of a task that people have labelled, or one output; by workers, as a run or a job."""
    seen = see(name, version)
    why = why_no_model() if seen.plain else "what it asks is not known here"
    if why:
        return show(request, seen, problem=f"The judge can't be asked: {why}.", status=422)
    if "output" in request.POST:
        return try_on_one(request, seen)
    form = Trial(request.POST, list(Task.objects.filter(rubric__isnull=False)))
    task, limit = form.task, form.limit_usd
    if form.errors or task is None or not request.POST.get("task"):
        return show(request, seen, problem=" ".join(form.errors.values()) or "No task is named.", status=422)
    form.left = left_to_try(task, seen.row)
    if not form.left:
        return show(request, seen, problem=f"{seen.row} has graded all labelled outputs of {task.title}.", status=422)
    ids = form.chosen
    if form.errors:
        return show(request, seen, problem=" ".join(form.errors.values()), status=422)
    title = f"{task.title}: {seen.row} on {len(ids):,} labelled outputs"
    asked = {"outputs": "labelled" if len(ids) == len(form.left) else f"{len(ids):,} of {len(form.left):,} labelled"}
    run, _ = start_gradings(seen.row, ids, title=title, task=task, user=request.user, limit_usd=limit, asked=asked)
    if run is None:
        return show(request, seen, problem="All of these are under way already, in another run.", status=422)
    return redirect("run", run.pk)


def try_on_one(request: HttpRequest, seen: Seen) -> HttpResponse:
    text = request.POST["output"].strip()
    output = Output.objects.select_related("task").filter(pk=int(text)).first() if is_id(text) else None
    if output is None or seen.plain is None or output.task.slug not in seen.plain.tasks or output.content_missing:
        problem = f"output is {text[:60]!r}, allowed: the number of an output with content, of a task that has a rubric."
        return show(request, seen, problem=problem, status=422)
    versions.keep_primary(output.task, seen.row, request.user)
    job = queue.enqueue(Job.Kind.GRADE, output=output, grader=seen.row, user=request.user)
    return redirect("job", job.pk)


@require_POST
@access.role_required("admin")
def promote_judge(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Make this version's verdict the judge's for a task."""
    seen = see(name, version)
    slug = request.POST.get("task", "")
    task = Task.objects.filter(slug=slug).first()
    if task is None:
        return show(request, seen, problem=f"task is {slug[:60]!r}, allowed: a task that is here.", status=422)
    try:
        made = versions.promote(task, f"{name}@{version}", user=request.user, reason=request.POST.get("reason", ""))
    except versions.PromotionError as error:
        return show(request, seen, problem=str(error), status=422)
    messages.success(request, f"{made.primary_grader} is now the primary grader of {task.title}. It can be undone on the judges page.")
    return redirect("judge", name, version)


@require_POST
@access.role_required("admin")
def undo_promotion(request: HttpRequest, pk: int) -> HttpResponse:
    promotion = get_object_or_404(Promotion.objects.select_related("task"), pk=pk)
    try:
        made = versions.undo(promotion, user=request.user)
    except versions.PromotionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{made.primary_grader or 'No grader'} is the primary grader of {promotion.task.title} again.")
    return redirect("judges")
