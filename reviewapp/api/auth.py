"""Who is asking: a token in the Authorization header and nothing else. Session cookies have no say here, so there is no
request that another site could have a browser make.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any
from urllib.parse import unquote

from django.core.cache import cache
from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from reviewapp.api.errors import ApiError, Problem
from reviewapp.api.scopes import SCOPES
from reviewapp.api.tokens import find_token, note_use
from reviewapp.models import ApiToken

A_MINUTE = 1_200  # calls of one token and one server process
CHALLENGE = 'Bearer realm="Touchstone API"'


class Bearer(HttpBearer):
    """A token with one of these scopes, of a member whose role allows that scope now.

    `takes_basic`: also as the password of HTTP Basic, for programs that can be given an address and no header.
    """

    def __init__(self, *scopes: str, takes_basic: bool = False) -> None:
        super().__init__()
        self.scopes, self.takes_basic = scopes, takes_basic

    def __call__(self, request: HttpRequest) -> Any:
        header = request.headers.get("Authorization", "")
        scheme, _, value = header.partition(" ")
        text = value.strip() if scheme.lower() == "bearer" else ""
        if scheme.lower() == "basic" and self.takes_basic:
            text = _password(value)
        if not text:
            how = "Bearer TOKEN" + (", or Basic with the token as password" if self.takes_basic else "")
            raise _unknown("No token was sent." if not header else "The Authorization header can't be read.", scheme or None, how)
        return self.authenticate(request, text)

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken:
        found = find_token(token)
        if found is None or not found.user.is_active:
            raise _unknown("This token is not known here.", None, "a token from the Tokens page of this server")
        if found.state != "live":
            when = found.revoked_at or found.expires_at
            raise _unknown(
                f"The token {found.name} was {found.state} on {when:%Y-%m-%d}.".replace("was expired", "expired"), None, "a live one"
            )
        _count_call(found)
        self._check_may(found)
        note_use(found)
        request.user = found.user
        return found

    def _check_may(self, token: ApiToken) -> None:
        given = [name for name in self.scopes if name in token.scopes]
        if not given:
            text = f"This needs a token with the scope {' or '.join(self.scopes)}; {token.name} has: {', '.join(token.scopes)}."
            raise ApiError(403, text, [Problem("token.scopes", ", ".join(token.scopes), " or ".join(self.scopes))])
        if not any(token.user.has_role(SCOPES[name].role) for name in given):
            role = SCOPES[given[0]].role
            text = f"This needs the role of {role} or higher; the token's member {token.user.username} is {token.user.role}."
            raise ApiError(403, text, [Problem("token.role", token.user.role, f"{role} or higher")])


def need_role(request: HttpRequest, role: str) -> None:
    """For a call that asks more of a member than its scope does."""
    if not request.user.has_role(role):
        text = f"This needs the role of {role} or higher; the token's member {request.user.username} is {request.user.role}."
        raise ApiError(403, text, [Problem("token.role", request.user.role, f"{role} or higher")])


def _password(value: str) -> str:
    """Of HTTP Basic. A program that takes both from an address may leave them quoted as they stand there."""
    try:
        return unquote(b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2])
    except (binascii.Error, ValueError):
        return ""


def _unknown(text: str, seen: Any, allowed: str) -> ApiError:
    return ApiError(401, text, [Problem("header.Authorization", seen, allowed)], headers={"WWW-Authenticate": CHALLENGE})


def _count_call(token: ApiToken) -> None:
    """A window of a minute in this process's memory: against programs that run wild, not against attackers."""
    now = timezone.now()
    key = f"api:calls:{token.pk}:{now:%H%M}"
    cache.add(key, 0, 120)
    try:
        count = cache.incr(key)
    except ValueError:  # dropped this moment
        return
    if count > A_MINUTE:
        text = f"More than {A_MINUTE:,} calls in this minute with the token {token.name}."
        wait = str(60 - now.second)
        raise ApiError(429, text, [Problem("calls a minute", count, f"at most {A_MINUTE:,}")], headers={"Retry-After": wait})
