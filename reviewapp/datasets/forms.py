"""The builder's form: what to export, from the page's address."""

from __future__ import annotations

from typing import Any

from django import forms

from reviewapp.models import Task
from reviewapp.rewards.formats import format_named
from reviewapp.rewards.labels import DEFAULT_POLICY
from reviewapp.rewards.selection import selected_outputs
from reviewapp.rewards.spec import DEFAULT_FORMAT, DEFAULT_SPLIT, MAX_SEED, Spec, SpecError

SPLITS = (
    ("1", "All in train"),
    ("0.9,0.1", "90 % train, 10 % test"),
    ("0.9,0.05,0.05", "90 % train, 5 % validation, 5 % test"),
    ("0.8,0.1,0.1", "80 % train, 10 % validation, 10 % test"),
)


class SpecForm(forms.Form):
    """Empty fields mean their defaults, so that /datasets/ alone is a valid spec."""

    task = forms.MultipleChoiceField(required=False, error_messages={"invalid_choice": "Task %(value)s is unknown."})
    format = forms.CharField(required=False, max_length=40)
    policy = forms.CharField(required=False, max_length=40)
    split = forms.CharField(required=False, max_length=60)
    seed = forms.IntegerField(required=False, min_value=0, max_value=MAX_SEED)
    filter = forms.CharField(required=False, max_length=10_000)
    no_samples = forms.BooleanField(required=False)
    license = forms.RegexField(required=False, regex=r"^[A-Za-z0-9.+-]+$", max_length=60, error_messages={
        "invalid": "A license is named by letters, digits, dots, plus and minus, such as cc-by-4.0."})  # fmt: skip

    def __init__(self, data: Any, user_id: int) -> None:
        super().__init__(data)
        self.user_id = user_id
        self.tasks = list(Task.objects.order_by("slug").values_list("slug", "title"))
        self.fields["task"].choices = self.tasks  # type: ignore[attr-defined]
        self.spec: Spec | None = None

    def clean(self) -> dict[str, Any]:
        if self.errors:
            return self.cleaned_data
        given = self.cleaned_data
        try:
            spec = Spec(
                format=format_named(given["format"] or DEFAULT_FORMAT).name,
                tasks=tuple(sorted(given["task"])),
                policy=given["policy"] or DEFAULT_POLICY,
                split=given["split"] or DEFAULT_SPLIT,
                seed=given["seed"] or 0,
                filter=given["filter"].removeprefix("?"),
                include_samples=not given["no_samples"],
                license=given["license"] or "unknown",
                user_id=self.user_id if "reviewer=me" in given["filter"] else None,
            )
            selected_outputs(spec)
            self.spec = spec
        except SpecError as error:
            self.add_spec_error(error)
        return given

    def add_spec_error(self, error: SpecError) -> None:
        self.add_error(error.field if error.field in self.fields else None, str(error))
