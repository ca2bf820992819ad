"""The API as one object, its addresses, and what holds for all of them: no session, no redirect, no cache, JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import ValidationError, ValidationErrorContext
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

import reviewapp
from reviewapp.api.errors import answer, handle_errors

PREFIX, ROOT = "api/v1/", "api-root"
ABOUT = (
    "For programs. Send a token of the Tokens page as `Authorization: Bearer TOKEN`; each call names the scope that it needs. "
    "Errors are JSON: `error` is a sentence, `problems` lists where, what was seen, what is allowed. The guide has the examples."
)

ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "problems": {"type": "array", "items": {"type": "object"}}},
    "required": ["error", "problems"],
}


class Api(NinjaAPI):
    """Its description names each call as its function is named, the scopes of its token, and what an error looks like."""

    scopes: dict[str, list[str]] = {}  # of each call, filled while their ids are asked for

    def validation_error_from_error_contexts(self, error_contexts: list[ValidationErrorContext]) -> ValidationError:
        """Ninja's takes away the value that was seen."""
        found = super().validation_error_from_error_contexts(error_contexts)
        rows = [row for context in error_contexts for row in context.pydantic_validation_error.errors(include_url=False)]
        return ValidationError([told | {"input": row["input"]} for told, row in zip(found.errors, rows, strict=True)])

    def get_openapi_operation_id(self, operation: Operation) -> str:
        name = operation.view_func.__name__
        self.scopes[name] = [scope for auth in operation.auth_callbacks for scope in getattr(auth, "scopes", ())]
        return name

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        for call in [call for calls in schema["paths"].values() for call in calls.values()]:
            call["description"] = f"Scope: {' or '.join(self.scopes[call['operationId']])}. {call.get('description', '')}".strip()
            content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            call["responses"]["default"] = {"description": "An error", "content": content}
        schema["components"]["schemas"]["Error"] = ERROR
        return schema


api = Api(title="Touchstone", version=reviewapp.__version__, description=ABOUT, docs_url=None, urls_namespace="api-1")
handle_errors(api)


def urls() -> list[URLPattern | URLResolver]:
    """The addresses under api/. Whatever is not one of the calls is a 404 in JSON."""
    patterns, app_name, namespace = api.urls
    views = {p.name: _nothing_here if p.name == ROOT else p.callback for p in patterns}
    calls = [path(str(p.pattern), _served(views[p.name]), name=p.name) for p in patterns]
    return [path(PREFIX, include((calls, app_name), namespace=namespace)), re_path(r"^api(?:/|$)", _served(_nothing_here))]


def _served(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The token is the sign-in: the page for people must not answer in its place, and no cookie counts."""

    @login_not_required
    @csrf_exempt
    @wraps(view)
    def api_view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        if isinstance(response, HttpResponseNotAllowed):
            allowed = response["Allow"]
            response = answer(405, f"{request.method} is not allowed here, allowed: {allowed}")
            response["Allow"] = allowed
        response["Cache-Control"] = "no-store"
        return response

    return api_view


def _nothing_here(request: HttpRequest) -> HttpResponse:
    calls = ", ".join(f"/{PREFIX}{p.pattern}" for p in api.urls[0] if p.name != ROOT)
    return answer(404, f"There is no {request.path[:200]} here. There are: {calls}")
