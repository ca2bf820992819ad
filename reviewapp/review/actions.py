"""What a reviewer does on the review page. Each is a POST that also works as a plain form.

A form names what it was drawn from: `base`, this person's newest grade then, and `seen`, the newest grade of all.
A `base` that is no longer true means that this form was submitted already; a `seen` that is too old means that
others have decided since, which the person is shown before theirs is taken.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.contrib import messages
from django.db import transaction
from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from django_htmx.http import HttpResponseClientRedirect, reswap, retarget

from reviewapp import access
from reviewapp.grading import retract
from reviewapp.models import Draft, Flag, Grade, Skip
from reviewapp.review.answers import (
    Answers,
    begin_override,
    from_scores,
    leave_override,
    read_form,
    words,
)
from reviewapp.review.panel import headline
from reviewapp.review.sitting import SCORES, Sitting, is_retracted, sit_down
from reviewapp.review.submit import ACTIVE_S_A_SAVE, attach, begin, record, why_incomplete
from reviewapp.review.views import page_context, panel_context, rendered_output, total_context

DECIDING = (Grade.Mode.AUTOMATIC, Grade.Mode.OVERRIDE, Grade.Mode.ADJUDICATION)


@require_POST
@access.role_required("reviewer")
@transaction.atomic
def draft(request: HttpRequest, pk: int) -> HttpResponse:
    """Save what is in the form; answer with where the score stands."""
    sitting = sit_down(request.user, pk, lock=True)
    if _is_submitted(request, sitting):
        return _too_late(request, sitting)
    errors = _save(request, sitting)
    if not request.htmx:
        return _panel(request, sitting, 422, errors=errors) if errors else _to_output(sitting, request)
    if request.POST.get("redraw") and not errors:
        return _panel_and_marks(request, sitting, "")  # a grader has finished
    context = {**total_context(sitting), "errors": errors, "is_draft": True}
    return render(request, "review/panel_form.html#total", context, status=422 if errors else 200)


@require_POST
@access.role_required("reviewer")
@transaction.atomic
def submit(request: HttpRequest, pk: int) -> HttpResponse:
    sitting = sit_down(request.user, pk, lock=True)
    if _is_submitted(request, sitting):
        messages.info(request, "This was submitted already. To change it, use “Change my scores”.")
        return _to_output(sitting, request)
    if errors := _save(request, sitting) + why_incomplete(sitting):
        return _panel(request, sitting, 422, errors=errors, goes_on=True)
    if told := _why_not_to_settle(sitting):
        return _panel(request, sitting, 409, errors=[told])
    if newer := _newer_decisions(request, sitting):
        return _panel(request, sitting, 409, decisions=newer)
    return _record_and_show(request, sitting)


@require_POST
@access.role_required("reviewer")
@transaction.atomic
def agree(request: HttpRequest, pk: int) -> HttpResponse:
    """An assisted grade with the judge's scores."""
    sitting = sit_down(request.user, pk, lock=True)
    judge = next((grade for grade in sitting.judges if str(grade.pk) == request.POST.get("judge")), None)
    if _is_submitted(request, sitting):
        messages.info(request, "This was submitted already.")
        return _to_output(sitting, request)
    if newer := _newer_decisions(request, sitting):
        return _panel(request, sitting, 409, decisions=newer)
    if judge is None:
        return _panel(request, sitting, 422, errors=["There is no visible judge's grade to agree with."])
    own = _own_answers(request, sitting)
    agreed = from_scores(judge.criterion_scores.all(), with_words=False)
    begin(sitting, Grade.Mode.ASSISTED, {key: words(own.get(key)) | verdict for key, verdict in agreed.items()}, note=_note(sitting))
    if errors := why_incomplete(sitting):
        return _panel(request, sitting, 422, errors=[f"The judge left something open. {error}" for error in errors], goes_on=True)
    return _record_and_show(request, sitting)


@require_POST
@access.role_required("reviewer")
@transaction.atomic
def mode(request: HttpRequest, pk: int) -> HttpResponse:
    """See the judge first, change one's scores, override the judge, or leave that again."""
    sitting = sit_down(request.user, pk, lock=True)
    wanted = request.POST.get("mode", "")
    if _is_submitted(request, sitting):
        return _to_output(sitting, request)
    if wanted == "assisted":
        _begin_assisted(request, sitting)
    elif wanted == "override":
        judge = next((grade for grade in sitting.judges if str(grade.pk) == request.POST.get("judge")), None)
        if judge is None:
            return _panel(request, sitting, 422, errors=["There is no visible judge's grade to override."])
        own = _own_answers(request, sitting)
        judged = from_scores(judge.criterion_scores.all(), with_words=False)
        begin(sitting, Grade.Mode.OVERRIDE, begin_override(own, judged), note=_note(sitting), supersedes=judge)
    elif wanted == "leave" and sitting.draft and sitting.sees_judge:
        _save(request, sitting)
        _leave(sitting)
    else:
        return _panel(request, sitting, 422, errors=[f"mode is {wanted[:40]!r}, allowed: assisted, override, leave"])
    return _to_output(sitting, request)


@require_POST
@access.role_required("reviewer")
@transaction.atomic
def evidence(request: HttpRequest, pk: int) -> HttpResponse:
    """Attach a piece of the output to a criterion, or take it off again (`remove`: criterion:number)."""
    sitting = sit_down(request.user, pk, lock=True)
    if _is_submitted(request, sitting):
        return _too_late(request, sitting)
    errors = _save(request, sitting)
    key, _, number = request.POST.get("remove", "").partition(":")
    if key:
        kept = [item for i, item in enumerate(sitting.draft.answers.get(key, {}).get("evidence", ())) if str(i) != number]
        sitting.draft.answers.get(key, {})["evidence"] = kept
    else:
        key = request.POST.get("criterion", "")
        errors += attach(sitting, key, request.POST.get(f"quote.{key}", request.POST.get("quote", "")))
    sitting.draft.save()
    if errors:
        return _panel(request, sitting, 422, errors=errors, current=key)
    if not request.htmx:
        return redirect(f"{reverse('review', args=[pk])}?c={key}#c-{key}")
    return _panel_and_marks(request, sitting, key)


@require_POST
@access.role_required("reviewer")
def skip(request: HttpRequest, pk: int) -> HttpResponse:
    sitting = sit_down(request.user, pk)
    reason = (request.POST.get("reason", "").strip() or request.POST.get("other", "").strip())[:500]
    if not reason:
        return _panel(request, sitting, 422, errors=["Say why you skip it: the reason is empty."])
    Skip.objects.update_or_create(output=sitting.output, reviewer=request.user, defaults={"reason": reason, "created_at": timezone.now()})
    messages.info(request, f"Output {pk} skipped: {reason}")
    return _go(request, panel_context(request, sitting)["next_url"])


@require_POST
@access.role_required("reviewer")
def flag(request: HttpRequest, pk: int) -> HttpResponse:
    """Say that something is wrong with an output; once more takes it back."""
    sitting = sit_down(request.user, pk)
    mine = Flag.objects.filter(output=sitting.output, reviewer=request.user, resolved_at=None)
    if mine.update(resolved_at=timezone.now()):
        messages.info(request, "You took your flag back.")
    else:
        note = request.POST.get("note", "").strip()[:500]
        Flag.objects.get_or_create(output=sitting.output, reviewer=request.user, resolved_at=None, defaults={"note": note})
        messages.info(request, f"Output {pk} is flagged{f': {note}' if note else ''}. ! takes it back.")
    return _to_output(sitting, request)


@require_POST
@access.role_required("reviewer")
@transaction.atomic
def undo(request: HttpRequest) -> HttpResponse:
    """Take back one's newest grade: it stays in the history, counts no more, and its answers are a draft again.

    With `skip`, take back a skip and return to what was skipped.
    """
    if number := request.POST.get("skip", ""):
        skipped = get_object_or_404(Skip, reviewer=request.user, pk=number if number.isdigit() else 0)
        skipped.delete()
        messages.info(request, f"Output {skipped.output_id} is not skipped any more.")
        return _go(request, reverse("review", args=[skipped.output_id]))
    number = request.POST.get("grade", "")
    grade = get_object_or_404(Grade.objects.select_related("retraction"), rater=request.user, pk=number if number.isdigit() else 0)
    sitting = sit_down(request.user, grade.output_id, lock=True)
    newest = Grade.objects.filter(rater=request.user, retraction__isnull=True).order_by("-created_at", "-id").first()
    if is_retracted(grade):
        messages.info(request, "This grade was taken back already.")
    elif newest != grade:
        return _panel(request, sitting, 409, errors=["You have submitted another grade since; only the newest can be undone."])
    else:
        retract(grade, request.user, "undo")
        _restore(grade)
        messages.info(request, "Taken back. Your answers are below as a draft; the grade stays in the history.")
    return _to_output(sitting, request)


# --- reading and writing the draft ------------------------------------------------------------------------


def _is_submitted(request: HttpRequest, sitting: Sitting) -> bool:
    base = request.POST.get("base", "")
    return base.isdigit() and int(base) != sitting.base


def _save(request: HttpRequest, sitting: Sitting) -> list[str]:
    """Put the form into the draft, making one if there is none. Answers with what is wrong with the form."""
    is_new = sitting.draft is None
    if is_new:
        begin(sitting, Grade.Mode.ASSISTED if sitting.sees_judge else Grade.Mode.BLIND, {})
    draft = sitting.draft
    if sitting.settles_for:
        draft.mode, draft.supersedes = Grade.Mode.ADJUDICATION, None
    draft.answers, errors = read_form(sitting.criteria, request.POST, draft.answers)
    draft.note = request.POST.get("note", draft.note)[:10_000]
    draft.active_ms += _active_ms(request, None if is_new else draft)
    draft.save()
    return errors


def _active_ms(request: HttpRequest, draft: Draft | None) -> int:
    """The active time that the page reports since its last save; never more than the time that has passed."""
    try:
        told = float(request.POST.get("active_s", 0))
    except ValueError:
        return 0
    if math.isnan(told):
        return 0
    passed = (timezone.now() - draft.updated_at).total_seconds() + 1 if draft else ACTIVE_S_A_SAVE
    return int(1000 * max(0.0, min(told, passed, ACTIVE_S_A_SAVE)))


def _own_answers(request: HttpRequest, sitting: Sitting) -> Answers:
    """What the reviewer has entered so far, with what is in the form that they leave for another."""
    if sitting.is_form:
        _save(request, sitting)
    answers = sitting.draft.answers if sitting.draft else {}
    return leave_override(answers, {}) if sitting.mode == "override" else answers


def _note(sitting: Sitting) -> str:
    return sitting.draft.note if sitting.draft else ""


def _begin_assisted(request: HttpRequest, sitting: Sitting) -> None:
    """Show the judge before a first grade (which is remembered), or open one's own grade to change it."""
    if sitting.standing:
        own = from_scores(sitting.standing.criterion_scores.all(), with_words=True)
        begin(sitting, Grade.Mode.ASSISTED, own, note=sitting.standing.rationale, supersedes=sitting.standing)
        return
    _save(request, sitting)
    sitting.draft.mode = Grade.Mode.ASSISTED
    sitting.draft.save()


def _leave(sitting: Sitting) -> None:
    """Leave an override for one's own answers, else give up a change of one's grade.

    Without a grade of one's own the draft stays: it remembers that the judge was seen.
    """
    answers = sitting.draft.answers
    if sitting.mode == "override":
        is_own = any("own" in answer for answer in answers.values())
        judged = from_scores(sitting.target.criterion_scores.all(), with_words=False) if sitting.target else {}
        answers = leave_override(answers, judged)
    else:
        is_own = False
    if sitting.standing and not is_own:
        sitting.draft.delete()
    else:
        begin(sitting, Grade.Mode.ASSISTED, answers, note=sitting.draft.note, supersedes=sitting.standing)


def _restore(grade: Grade) -> None:
    """The answers of a grade that was taken back, as a draft; assisted, since the judge was shown after it."""
    mode = grade.mode if grade.mode in (Grade.Mode.OVERRIDE, Grade.Mode.ADJUDICATION) else Grade.Mode.ASSISTED
    Draft.objects.get_or_create(
        output_id=grade.output_id,
        reviewer=grade.rater,
        defaults={
            "mode": mode,
            "answers": from_scores(grade.criterion_scores.select_related("criterion"), with_words=True),
            "note": grade.rationale,
            "active_ms": int(1000 * (grade.duration_s or 0)),
            "supersedes": grade.supersedes,
        },
    )


# --- from the draft to a grade ----------------------------------------------------------------------------


def _newer_decisions(request: HttpRequest, sitting: Sitting) -> list[Grade]:
    """What a grader or another person has decided since the page was drawn. A blind reviewer is not told."""
    seen = request.POST.get("seen", "")
    if not sitting.sees_judge or not seen.isdigit():
        return []
    newer = [g for g in sitting.grades if g.pk > int(seen) and g.mode in DECIDING and g.rater_id != sitting.user.pk]
    return [grade for grade in newer if not is_retracted(grade)]


def _why_not_to_settle(sitting: Sitting) -> str:
    """Why what was entered to settle an output can settle it no more; the draft is one of an assisted grade from then on."""
    if sitting.settles_for or sitting.draft.mode != Grade.Mode.ADJUDICATION:
        return ""
    sitting.draft.mode = Grade.Mode.ASSISTED
    sitting.draft.save(update_fields=["mode"])
    return "Somebody else has settled this output since, or its queue is closed. Submit once more to add yours as an assisted grade."


def _record_and_show(request: HttpRequest, sitting: Sitting) -> HttpResponse:
    try:
        record(sitting)
    except ValueError as error:  # the rubric has changed since the draft was begun
        return _panel(request, sitting, 422, errors=[str(error)])
    return _to_output(sitting, request)


# --- answering --------------------------------------------------------------------------------------------


def _panel(request: HttpRequest, sitting: Sitting, status: int, **more: Any) -> HttpResponse:
    """The panel again, with what stands in the way; a whole page where htmx did not ask."""
    if "decisions" in more:
        prefetch_related_objects(more["decisions"], SCORES)
        more["decisions"] = [{"grade": grade, **headline(grade)} for grade in more["decisions"]]
    current = more.pop("current", "")
    if request.htmx:
        return render(request, "review/panel.html", {**panel_context(request, sitting, current=current), **more}, status=status)
    return render(request, "review/review.html", page_context(request, sitting, current=current, **more), status=status)


def _too_late(request: HttpRequest, sitting: Sitting) -> HttpResponse:
    """Said beside the form, which stays: what was typed there is nowhere else."""
    told = "You have submitted this output already, in another tab. Reload to see your grade."
    if not request.htmx:
        return _panel(request, sitting, 409, errors=[told])
    response = render(request, "review/panel_form.html#total", {"sitting": sitting, "output": sitting.output, "errors": [told]}, status=409)
    return retarget(reswap(response, "outerHTML"), "#total")


def _panel_and_marks(request: HttpRequest, sitting: Sitting, current: str) -> HttpResponse:
    """The panel, and the output with its marks where the page shows it."""
    response = _panel(request, sitting, 200, current=current)
    query = parse_qs(urlsplit(request.htmx.current_url or "").query)
    if query.get("tab", ["output"]) == ["output"]:
        rendered = rendered_output(sitting, is_diff="diff" in query)
        response.write(render_to_string("review/tab_output.html#content", {"rendered": rendered, "is_oob": True}, request))
    return response


def _to_output(sitting: Sitting, request: HttpRequest) -> HttpResponse:
    return _go(request, reverse("review", args=[sitting.output.pk]))


def _go(request: HttpRequest, url: str) -> HttpResponse:
    return HttpResponseClientRedirect(url) if request.htmx else redirect(url)
