"""Make, find and end tokens. The text of a token is known to whoever made it, and to nobody else."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from django import forms
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone

from reviewapp.api.scopes import scopes_for
from reviewapp.models import ApiToken, User

PREFIX = "tst_"  # so that people and secret scanners know one when they see it
MOST = 50
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "never": "never"}
USED_EVERY, WAIT_MS = timedelta(minutes=1), 50


class TokenForm(forms.Form):
    name = forms.CharField(max_length=60, error_messages={"required": "Give it a name that says which program has it."})
    scopes = forms.MultipleChoiceField(
        error_messages={
            "required": "Choose at least one thing that it may do.",
            "invalid_choice": "%(value)s is not a scope that your role allows.",
        }
    )
    expires = forms.ChoiceField(choices=list(LIFETIMES.items()), initial="90")

    def __init__(self, data: Mapping[str, Any] | None, user: User) -> None:
        super().__init__(data)
        self.user = user
        self.fields["scopes"].choices = [(s.name, s.text) for s in scopes_for(user)]  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name = " ".join(self.cleaned_data["name"].split())
        if ApiToken.objects.filter(user=self.user, name=name).exists():
            raise forms.ValidationError(f"You have a token named {name} already; a name is used once.")
        return name

    def clean(self) -> dict[str, Any]:
        if ApiToken.objects.filter(user=self.user, revoked_at=None).count() >= MOST:
            raise forms.ValidationError(f"You have {MOST} tokens, which is the most: revoke one that is not used any more.")
        return self.cleaned_data

    def save(self) -> tuple[ApiToken, str] | None:
        """The token and its text; None if another request took the name this moment."""
        days = self.cleaned_data["expires"]
        expires_at = None if days == "never" else timezone.now() + timedelta(days=int(days))
        try:
            return make_token(self.user, self.cleaned_data["name"], self.cleaned_data["scopes"], expires_at=expires_at)
        except IntegrityError:
            self.add_error("name", "You have a token of this name already.")
            return None


@transaction.atomic
def make_token(user: User, name: str, scopes: list[str], *, expires_at: Any = None) -> tuple[ApiToken, str]:
    """The row, and the text that is shown once."""
    text = PREFIX + secrets.token_urlsafe(32)
    row = ApiToken.objects.create(user=user, name=name, scopes=sorted(scopes), sha256=hash_of(text), hint=text[-4:], expires_at=expires_at)
    return row, text


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def find_token(text: str) -> ApiToken | None:
    """The token with this text, ended or not."""
    return ApiToken.objects.select_related("user").filter(sha256=hash_of(text)).first() if text.startswith(PREFIX) else None


def note_use(token: ApiToken) -> None:
    """At most one write a minute, however often it is used; and none where it would have to wait for a long import."""
    now = timezone.now()
    if token.last_used_at is None or token.last_used_at < now - USED_EVERY:
        with suppress(OperationalError), _without_waiting():
            ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """On SQLite, whose writers queue, only a moment for the writer before."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    usual_s = connection.settings_dict["OPTIONS"]["timeout"]
    try:
        _set_busy_timeout(WAIT_MS)
        yield
    finally:
        _set_busy_timeout(int(1000 * usual_s))


def _set_busy_timeout(milliseconds: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
