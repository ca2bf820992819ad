"""Errors as JSON: `error` is a sentence, `problems` name each place, the value seen and what is allowed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

MOST_PROBLEMS = 100
SHOWN_CHARS = 120

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """`where`: body.completions[3], query.sort, header.Authorization."""

    where: str
    seen: Any
    allowed: str

    def to_json(self) -> dict[str, Any]:
        return {"where": self.where, "seen": shown(self.seen), "allowed": self.allowed}


class ApiError(Exception):
    """An answer other than 2xx, from wherever it is found."""

    def __init__(
        self,
        status: int,
        error: str,
        problems: Sequence[Problem] = (),
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.problems = status, error, list(problems)
        self.headers, self.more = dict(headers or {}), dict(more or {})


def refused(where: str, seen: Any, allowed: str, status: int = 422) -> ApiError:
    """One value that is not allowed."""
    problem = Problem(where, seen, allowed)
    return ApiError(status, f"{where} is {shown(seen)!r}, allowed: {allowed}", [problem])


def answer(status: int, error: str, problems: Iterable[Problem] = (), more: Mapping[str, Any] | None = None) -> HttpResponse:
    """`more` is added to the answer, or takes the place of its problems."""
    told = [problem.to_json() for problem in problems]
    return JsonResponse({"error": error, "problems": told[:MOST_PROBLEMS], **(more or {})}, status=status)


def shown(value: Any) -> Any:
    """A value as it came, cut when it is long; what JSON has no number for, as text."""
    if isinstance(value, str):
        return value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…"
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    is_json = value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else shown(str(value))


def handle_errors(api: NinjaAPI) -> None:
    """Whatever ends a call leaves as JSON."""

    @api.exception_handler(ApiError)
    def told(request: HttpRequest, error: ApiError) -> HttpResponse:
        response = answer(error.status, error.error, error.problems, error.more)
        for name, value in error.headers.items():
            response[name] = value
        return response

    @api.exception_handler(ValidationError)
    def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        problems = [_problem_of(row) for row in error.errors]
        first = problems[0]
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        return answer(422, f"{first.where} is {shown(first.seen)!r}, allowed: {first.allowed}{more}", problems)

    @api.exception_handler(Http404)
    def missing(request: HttpRequest, error: Http404) -> HttpResponse:
        return answer(404, str(error) or "There is nothing at this address.")

    @api.exception_handler(HttpError)
    def by_ninja(request: HttpRequest, error: HttpError) -> HttpResponse:
        return answer(error.status_code, f"{error}.".replace("..", "."))

    @api.exception_handler(RequestDataTooBig)
    def too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
        limit = f"at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes"
        seen = request.META.get("CONTENT_LENGTH")
        return answer(413, f"The body has {seen} bytes, allowed: {limit}", [Problem("header.Content-Length", seen, limit)])

    @api.exception_handler(SuspiciousOperation)
    def unreadable(request: HttpRequest, error: SuspiciousOperation) -> HttpResponse:
        return answer(400, f"The request can't be read: {error}")

    api.add_exception_handler(Exception, _unexpected)


def _unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
    """A database that is away, what no database stores, and errors of ours."""
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("the database said: %s", error)
        response = answer(503, "The database is busy or away. Nothing was written; ask again.")
        response["Retry-After"] = "2"
        return response
    if isinstance(error, DataError | UnicodeEncodeError):  # a NUL or half a surrogate pair in a text, a number too large
        return answer(
            422, f"The database can't store what was sent: {error}", [Problem("body", None, "text and numbers that it can store")]
        )
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer(500, "An error in the program. It is in the server's log; nothing was written.")


def _problem_of(row: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors in our words."""
    where, context = _where(row["loc"]), row.get("ctx") or {}
    kind, seen = row["type"], row.get("input")
    if kind == "missing":
        return Problem(where, None, "it is required")
    if kind == "extra_forbidden":
        return Problem(where, seen, "no such field; docs/api.md lists those that there are")
    if kind in ("literal_error", "enum"):
        return Problem(where, seen, str(context.get("expected", "")).replace("'", ""))
    if kind in ("json_invalid", "value_error"):
        return Problem(where, seen, str(context.get("error", row["msg"])))
    return Problem(where, seen, row["msg"].removeprefix("Input should be ").removeprefix("Value error, "))


def _where(loc: Sequence[str | int]) -> str:
    """('body', 'data', 'completions', 3) -> body.completions[3]. The second part is the name of our argument."""
    parts = list(loc)
    if len(parts) > 1 and parts[0] == "body" and parts[1] == "body":
        del parts[1]
    path = str(parts[0]) if parts else "request"
    for part in parts[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{str(part)[:80]}"
    return path
