"""Call the API as a program does: a token and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from django.db import connection
from django.test import Client

from reviewapp.api.scopes import SCOPES
from reviewapp.api.tokens import make_token
from reviewapp.jobs.work import work_on
from reviewapp.models import Job, User


class Caller:
    """`api.get("outputs", task="ideas")`, `api.post("reward", {...})`; the last answer's status and headers are kept."""

    def __init__(self, token: str = "", **headers: str) -> None:
        self.client = Client()
        self.headers = ({"Authorization": f"Bearer {token}"} if token else {}) | headers
        self.status = 0

    def get(self, path: str, **params: Any) -> Any:
        return self._read(self.client.get(f"/api/v1/{path}", params, headers=self.headers))

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self._read(self.client.post(f"/api/v1/{path}", body or {}, content_type="application/json", headers=self.headers, **more))

    def send(self, path: str, data: Any, content_type: str = "application/x-ndjson", **more: Any) -> Any:
        return self._read(self.client.post(f"/api/v1/{path}", data, content_type=content_type, headers=self.headers, **more))

    def _read(self, response: Any) -> Any:
        self.response, self.status = response, response.status_code
        return response.json()


def caller_for(user: User, *scopes: str) -> Caller:
    """A program with a new token of this member; without scopes it has all of them."""
    _, text = make_token(user, f"token {user.api_tokens.count() + 1}", list(scopes or SCOPES))
    return Caller(text)


@contextmanager
def working() -> Iterator[None]:
    """A thread that does what is queued, as a worker does."""
    is_over = Event()

    def work() -> None:
        while not is_over.wait(0.1):
            for pk in list(Job.objects.filter(state="queued").values_list("pk", flat=True)):
                work_on(pk)
        connection.close()

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
