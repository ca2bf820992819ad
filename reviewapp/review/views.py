"""The review page: an output beside its rubric. What a reviewer does there is in actions.py."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET
from django_htmx.http import HttpResponseClientRefresh

from graders import registry
from graders.judge.grader import JudgeGrader
from reviewapp import access
from reviewapp.judges.known import saved_of
from reviewapp.models import Flag, GoldAnswer, Grade, Output, Skip, Task, User
from reviewapp.queues.claims import queue_at_hand
from reviewapp.queues.gold import known_answers
from reviewapp.review import order
from reviewapp.review.answers import rule_text, tally
from reviewapp.review.evidence import marks_of
from reviewapp.review.history import grader_reports, history
from reviewapp.review.panel import DENSE_FROM, headline, passes, raters_of, rows_of
from reviewapp.review.rendering.page import Rendered, render_output
from reviewapp.review.sitting import Sitting, sit_down
from reviewapp.review.transcript import entries_of

TABS = {"output": "Output", "transcript": "Transcript", "prompt": "Prompt", "evidence": "Evidence", "history": "History"}


@require_GET
@access.role_required("viewer")
def review(request: HttpRequest, pk: int) -> HttpResponse:
    sitting = sit_down(request.user, pk)
    if request.htmx:  # a grader has finished
        # What it found is on both sides of the page; a blind reviewer is not to see it yet.
        told = '<p class="notice">The result is hidden until you submit, or see the judge first.</p>'
        return HttpResponse(told) if sitting.mode == "blind" else HttpResponseClientRefresh()
    return render(request, "review/review.html", page_context(request, sitting))


@require_GET
@access.role_required("reviewer")
def review_next(request: HttpRequest) -> HttpResponse:
    slug = request.GET.get("task", "")
    task = get_object_or_404(Task.objects.select_related("rubric"), slug=slug) if slug else None
    output = order.next_output(request.user, task) if task else order.next_anywhere(request.user)
    if output:
        return redirect("review", pk=output.pk)
    reviewed, total = order.progress(request.user, task) if task else (0, 0)
    return render(request, "review/done.html", {"task": task, "reviewed": reviewed, "total": total, **_undoable(request.user)})


@require_GET
@access.role_required("viewer")
def raw(request: HttpRequest, pk: int) -> HttpResponse:
    """The content as it was handed in, to keep and not to run: a download of plain text in a sandbox."""
    output = get_object_or_404(Output.objects.select_related("body"), pk=pk)
    response = HttpResponse(output.body.content, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="output-{output.pk}.txt"'
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def page_context(request: HttpRequest, sitting: Sitting, *, current: str = "", **more: Any) -> dict[str, Any]:
    """Everything the page draws. A blind sitting holds nothing of the judge, so nothing here can show it."""
    tab = request.GET.get("tab", "output")
    tab = tab if tab in TABS else "output"
    output = sitting.output
    rendered = rendered_output(sitting, is_diff=bool(request.GET.get("diff"))) if tab == "output" else None
    base = "" if tab == "output" else "?tab=output"
    reviewed, total = order.progress(sitting.user, output.task)
    context = panel_context(request, sitting, rendered=rendered, base=base, current=current)
    saved = saved_of(output.task.slug) if tab == "output" else []
    context |= {
        "tab": tab,
        "tabs": [{"key": key, "title": title, "is_closed": _is_closed(sitting, key)} for key, title in TABS.items()],
        "rendered": rendered,
        "has_starter": bool(output.variant.starter) and output.format == "python",
        "is_diff": bool(request.GET.get("diff")),
        "newer": _newer(output),
        "reviewed": reviewed,
        "total": total,
        "done_width": f"{100 * reviewed / total:.2f}%" if total else "0%",
        "grade_url": _grade_url(sitting, saved),
        "graders": registry.for_task(sitting.output.task.slug),
        "saved_judges": saved,
        "may_set_gold": sitting.user.has_role(User.Role.ADMIN) and sitting.output.task.rubric is not None,
        "expected": _expected(sitting),
    }
    return context | _undoable(sitting.user) | _tab_context(sitting, tab) | more


def total_context(sitting: Sitting) -> dict[str, Any]:
    """Where the answers stand: what is redrawn after each."""
    rubric = sitting.rubric
    answers = sitting.draft.answers if sitting.draft else {}
    return {
        "sitting": sitting,
        "output": sitting.output,
        "tally": tally(rubric.spec, sitting.criteria, answers, _runs(sitting)) if rubric else None,
    }


def panel_context(
    request: HttpRequest, sitting: Sitting, *, rendered: Rendered | None = None, base: str = "", current: str = ""
) -> dict[str, Any]:
    """What the rubric panel draws; enough to redraw it alone after a refused submit."""
    answers = sitting.draft.answers if sitting.draft else {}
    found = rendered.found if rendered else None
    rubric = sitting.rubric
    return {
        **total_context(sitting),
        "task": sitting.output.task,
        "rows": rows_of(sitting, answers, found, base=base, current=current or request.GET.get("c", "")),
        "is_dense": len(sitting.criteria) >= DENSE_FROM,
        "has_binary": any(c.kind == "binary" for c in sitting.criteria),
        "has_categorical": any(c.kind == "categorical" for c in sitting.criteria),
        "has_numeric": any(c.kind == "numeric" for c in sitting.criteria),
        "rule": rule_text(rubric.spec) if rubric else "",
        "judge": sitting.judge,
        "judges": [{"grade": grade, **headline(grade)} for grade in sitting.judges],
        "people": [{"grade": grade, **headline(grade)} for grade in sitting.people],
        "raters": [{**headline(grade), "who": who, "note": grade.rationale} for who, grade in raters_of(sitting)],
        "gold": known_answers([sitting.output.pk]).get(sitting.output.pk) if sitting.is_told_gold and sitting.mode == "reveal" else None,
        "mine": headline(sitting.standing) if sitting.standing else None,
        "difference": _difference(sitting),
        "flag": Flag.objects.filter(output=sitting.output, reviewer=sitting.user, resolved_at=None).first(),
        "next_url": _next_url(sitting),
    }


def rendered_output(sitting: Sitting, *, is_diff: bool = False) -> Rendered | None:
    output = sitting.output
    if output.content_missing:
        return None
    starter = output.variant.starter if is_diff and output.format == "python" else ""
    return render_output(output.format, output.body.content, marks_of(sitting), starter=starter)


def _tab_context(sitting: Sitting, tab: str) -> dict[str, Any]:
    output = sitting.output
    if _is_closed(sitting, tab):
        return {}
    if tab == "transcript":
        entries, count = entries_of(output.body.transcript)
        return {"entries": entries, "entry_count": count}
    if tab == "prompt":
        text = output.prompt.text if output.prompt else output.variant.prompt
        return {"prompt": render_output("markdown", text) if text else None, "starter": render_starter(output)}
    if tab == "evidence":
        return {"reports": grader_reports(sitting)}
    if tab == "history":
        return {"history": history(sitting)}
    return {}


def render_starter(output: Output) -> Rendered | None:
    return render_output("python", output.variant.starter) if output.variant.starter else None


def _is_closed(sitting: Sitting, tab: str) -> bool:
    """Tabs that would show what others said stay closed to a blind reviewer."""
    return tab in ("evidence", "history") and not sitting.sees_judge


def _newer(output: Output) -> Output | None:
    if output.is_latest:
        return None
    return Output.objects.filter(task_id=output.task_id, external_id=output.external_id, is_latest=True).only("pk", "version").first()


def _next_url(sitting: Sitting) -> str:
    """On in the queue that brought the reviewer here, else in the task."""
    queue = queue_at_hand(sitting.user, sitting.output.pk)
    return reverse("queue_next", args=[queue.pk]) if queue else f"{reverse('review_next')}?{urlencode({'task': sitting.output.task.slug})}"


def _undoable(user: User) -> dict[str, Any]:
    """What undo takes back: this person's newest grade anywhere or, if they have skipped an output since, that skip."""
    mine = Grade.objects.filter(rater=user, retraction__isnull=True).order_by("-created_at", "-id")
    last = mine.select_related("output__task").only("id", "overall", "output__task__title", "created_at").first()
    skipped = Skip.objects.filter(reviewer=user, **({"created_at__gt": last.created_at} if last else {}))
    return {"last": last, "skipped": skipped.order_by("-created_at").first()}


def _expected(sitting: Sitting) -> GoldAnswer | None:
    """The answer that an admin expects, for admins; like the judge's it is hidden from one who has yet to grade."""
    if not sitting.user.has_role(User.Role.ADMIN) or not sitting.sees_judge:
        return None
    return GoldAnswer.objects.filter(output=sitting.output).select_related("set_by").first()


def _runs(sitting: Sitting) -> bool | None:
    """Whether the submission ran, as the judge that is being overridden saw it."""
    return sitting.target.runs if sitting.target else None


def _difference(sitting: Sitting) -> str:
    mine, judge = sitting.standing, sitting.judge
    if mine and judge and (counts := (passes(mine), passes(judge))) and all(counts):
        value = counts[0][0] - counts[1][0]
        return f"{value:+d}".replace("-", "−") if value else "0"
    if not mine or not judge or mine.overall is None or judge.overall is None:
        return ""
    value = round(mine.overall - judge.overall, 2)
    return f"{value:+.2f}".replace("-", "−") if value else "0"


def _grade_url(sitting: Sitting, saved: list[JudgeGrader]) -> str:
    """Where the task's graders are started from. The job does not show the verdict, so a blind reviewer may."""
    if not (saved or registry.for_task(sitting.output.task.slug)) or not sitting.user.has_role(User.Role.REVIEWER):
        return ""
    return reverse("grade_output", args=[sitting.output.pk])
