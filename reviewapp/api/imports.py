"""Import a JSONL file by the importer of the command and the page: all or nothing, each bad line named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, UnreadablePostError

from reviewapp.api.app import api
from reviewapp.api.auth import Bearer
from reviewapp.api.errors import ApiError, Problem, refused
from reviewapp.interchange.forms import MAX_UPLOAD_BYTES, UploadForm
from reviewapp.interchange.importer import import_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.interchange.uploads import OUTPUTS, RUBRIC, folder_of, remove_upload, save_upload

PIECE = 2**18
JSONL = (
    "application/x-ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json",
    "application/octet-stream",
    "text/plain",
)
MULTIPART = "multipart/form-data"
BODY = {
    "required": True,
    "description": "One output a line (docs/importing.md); as a form, `file` and for a new task `rubric`.",
    "content": {"application/x-ndjson": {"schema": {"type": "string", "format": "binary"}}},
}


@api.post("import", auth=Bearer("import"), tags=["import"], openapi_extra={"requestBody": BODY})
def import_outputs(request: HttpRequest, dry_run: bool = False, title: str = "") -> dict[str, Any]:
    """Import all of a JSONL body or nothing; 422 lists the first 100 problems by line and field. Sent twice, it changes nothing.

    `dry_run=1` checks and counts. The body may have 4 GiB and is never held in memory.
    """
    _check_length(request)
    upload = _save_form(request) if request.content_type == MULTIPART else _save_body(request)
    folder = folder_of(upload)
    rubric = folder / RUBRIC
    name = title[:150] or f"{request.auth.name} by the API"  # type: ignore[attr-defined]
    try:
        report = import_file(folder / OUTPUTS, rubric if rubric.exists() else None, dry_run=dry_run, user=request.user, title=name)
    except ImportRefused as error:
        raise _refusal(error) from error
    finally:
        remove_upload(upload)
    told = report.to_json()
    return {name: value for name, value in told.items() if name not in ("rows", "n_tasks_known")}


class _Body:
    """The request's body, as an upload is read."""

    def __init__(self, request: HttpRequest) -> None:
        self._request, self.size = request, 0

    def chunks(self, size: int) -> Iterator[bytes]:
        while piece := self._request.read(min(size, PIECE)):
            self.size += len(piece)
            yield piece


def _check_length(request: HttpRequest) -> None:
    if not request.META.get("CONTENT_LENGTH"):
        raise ApiError(411, "The request has no Content-Length: send the body whole, not in chunks (curl --data-binary @FILE).")
    if (length := int(request.META["CONTENT_LENGTH"])) > MAX_UPLOAD_BYTES:
        problem = Problem("header.Content-Length", length, f"at most {MAX_UPLOAD_BYTES:,} bytes; manage.py import_outputs takes more")
        raise ApiError(413, f"The body has {length:,} bytes, allowed: {problem.allowed}", [problem])
    if request.content_type not in (*JSONL, MULTIPART):
        raise refused("header.Content-Type", request.content_type, f"{', '.join(JSONL)}, or {MULTIPART}", status=415)


def _save_body(request: HttpRequest) -> str:
    body = _Body(request)
    try:
        upload = save_upload(body, None)
    except UnreadablePostError as error:
        raise ApiError(400, f"The body broke off: {error}. Nothing was imported.") from error
    if body.size != int(request.META["CONTENT_LENGTH"]):
        remove_upload(upload)
        raise ApiError(400, f"The body broke off after {body.size:,} of {request.META['CONTENT_LENGTH']} bytes. Nothing was imported.")
    return upload


def _save_form(request: HttpRequest) -> str:
    form = UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        problems = [Problem(f"body.{name}", None, str(error)) for name, errors in form.errors.items() for error in errors]
        raise ApiError(422, " ".join(problem.allowed for problem in problems), problems)
    return save_upload(form.cleaned_data["file"], form.cleaned_data["rubric"])


def _refusal(import_refused: ImportRefused) -> ApiError:
    """`problems` with line, field and reason: the importer's own words."""
    told = import_refused.to_json()
    count, bad = told["n_problems"], told["n_bad_lines"]
    lines = f" in {bad:,} bad line{'' if bad == 1 else 's'}" if bad else ""
    first = f"{count:,} problem{'' if count == 1 else 's'}{lines}. The first: {import_refused.problems[0]}"
    return ApiError(422, f"Nothing was imported: {first}", more=told)
