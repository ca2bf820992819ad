"""The upload form."""

from __future__ import annotations

from django import forms

MAX_UPLOAD_BYTES = 4 * 2**30
MAX_RUBRIC_BYTES = 2**20


class UploadForm(forms.Form):
    file = forms.FileField(
        label="JSONL file",
        error_messages={
            "required": "Choose a file: one output a line, as JSON.",
            "empty": "The file is empty: it needs at least one line.",
        },
        widget=forms.ClearableFileInput(attrs={"accept": ".jsonl,.ndjson,.json,application/x-ndjson"}),
    )
    rubric = forms.FileField(
        label="Rubric file",
        required=False,
        error_messages={"empty": "The rubric file is empty."},
        help_text="Only for a task that is not here yet, or whose rubric changed.",
        widget=forms.ClearableFileInput(attrs={"accept": ".toml"}),
    )

    def clean_file(self) -> object:
        return _at_most(self.cleaned_data["file"], MAX_UPLOAD_BYTES, "4 GiB: split it, or use manage.py import_outputs")

    def clean_rubric(self) -> object:
        return _at_most(self.cleaned_data["rubric"], MAX_RUBRIC_BYTES, "1 MiB")


def _at_most(file: object, limit: int, allowed: str) -> object:
    if file and file.size > limit:  # type: ignore[attr-defined]
        raise forms.ValidationError(f"The file has {file.size:,} bytes, allowed: at most {allowed}.")  # type: ignore[attr-defined]
    return file
