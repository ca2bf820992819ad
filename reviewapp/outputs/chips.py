"""The filters in force as words, each with the query string that is left when it is taken off."""

from __future__ import annotations

from dataclasses import dataclass

from reviewapp.models import Output, Run
from reviewapp.outputs.filters import Choices, Filters


@dataclass(frozen=True)
class Chip:
    title: str
    value: str
    query: str  # without it


PLAIN = {
    "model": "Model",
    "variant": "Variant",
    "grader": "Grader",
    "passed": "Verdict",
    "judge": "Judge's verdict",
    "reviewer": "Graded by",
    "failure": "Failure",
    "sample": "Samples",
    "flagged": "Flagged",
    "q": "Text",
}


def chips_of(filters: Filters, choices: Choices) -> list[Chip]:
    titles = {task.slug: task.title for task in choices.tasks}
    found = [Chip("Task", titles.get(slug, slug), filters.without("task", slug).query) for slug in filters.task]
    for name, title in PLAIN.items():
        if value := getattr(filters, name):
            found.append(Chip(title, value, filters.without(name).query))
    if filters.run is not None:
        found.append(Chip("Run", _run_title(filters.run, choices), filters.without("run").query))
    if filters.label:
        state = "Labelled by people" if filters.label == "labelled" else dict(Output.LabelState.choices)[filters.label]
        found.append(Chip("Label", state, filters.without("label").query))
    if value := _range(filters.score_min, filters.score_max):
        found.append(Chip(f"{(filters.score_of or 'label').capitalize()} score", value, filters.without("score_of").query))
    if filters.disagreement_min is not None:
        found.append(Chip("Judge and human differ by", _range(filters.disagreement_min, None), filters.without("disagreement_min").query))
    if filters.ids:
        found.append(Chip("Chosen", f"{len(filters.ids)} output{'s' if len(filters.ids) > 1 else ''}", filters.without("ids").query))
    return found


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return f"{high:g} or less" if high is not None else ""


def _run_title(pk: int, choices: Choices) -> str:
    known = {run.pk: run.title for run in choices.runs}
    return known.get(pk) or Run.objects.values_list("title", flat=True).get(pk=pk)
