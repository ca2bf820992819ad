"""Which outputs an export is made from: tasks, samples, and the filters of the outputs page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django.db.models import QuerySet

from reviewapp.models import Output, User
from reviewapp.outputs.filters import parse_query
from reviewapp.outputs.queries import filtered
from reviewapp.rewards.spec import Spec, SpecError


def selected_outputs(spec: Spec) -> QuerySet[Output]:
    """Latest versions only, in no order. Raises SpecError naming a filter that can't be read."""
    outputs = _filtered(spec) if spec.filter else Output.objects.filter(is_latest=True)
    if spec.tasks:
        outputs = outputs.filter(task__slug__in=spec.tasks)
    if not spec.include_samples:
        outputs = outputs.filter(is_sample=False)
    return outputs.order_by()


def _filtered(spec: Spec) -> QuerySet[Output]:
    filters, problems = parse_query(spec.filter)
    if problems:
        raise SpecError("filter", " ".join(problems).replace(" It was left out.", ""))
    return filtered(filters, _user(spec))


def filter_without_names(spec: Spec, pseudonym: Callable[[str], str]) -> str:
    """The filter as the manifest may tell it: a reviewer by pseudonym."""
    if "reviewer" not in spec.filter:
        return spec.filter
    filters, _ = parse_query(spec.filter)
    if not filters.reviewer:
        return spec.filter
    user = _user(spec)
    name = user.username if user and filters.reviewer == "me" else filters.reviewer
    return replace(filters, reviewer=pseudonym(name)).query


def _user(spec: Spec) -> User | None:
    return User.objects.filter(pk=spec.user_id).first() if spec.user_id else None
