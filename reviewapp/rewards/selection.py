"""Which outputs an export is made from: tasks, samples, and the filters of the outputs page."""

from __future__ import annotations

from django.db.models import QuerySet

from reviewapp.models import Output
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
    raise SpecError("filter", f"filter is {spec.filter!r}: not there yet")
