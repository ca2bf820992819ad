"""Polite HTTP: one request at a time to a service, with a pause between two, across all processes of this machine.

Tries again after 429, 5xx and broken connections, as long as the service asks (`Retry-After`) or twice as long each
time. A service that can't be reached is left alone for a minute, so that a machine without network says so at once.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tasks.tools.errors import ServiceError

LARGEST_BYTES = 60 << 20
DOWN_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
AGAIN = (429, 500, 502, 503, 504)
# Of this process: a server that could not be reached, until when it is left alone, and why.
_down: dict[str, tuple[float, str]] = {}
AGENT = "Touchstone literature tools (https://pypi.org/project/arxiv/)"


@dataclass(frozen=True)
class Response:
    """`status_code` and `content`: what the arxiv package reads of a response, too."""

    status_code: int
    content: bytes
    content_type: str = ""


@dataclass(frozen=True)
class _Later:
    """An attempt that may go well another time."""

    why: str
    after_s: float | None = None
    is_unreachable: bool = False


class Web:
    """One service. `folder` holds the file by which processes take turns."""

    def __init__(self, name: str, folder: Path, *, pause_s: float, timeout_s: float = 30.0, attempts: int = 3) -> None:
        self.name, self.folder, self.pause_s, self.timeout_s, self.attempts = name, folder, pause_s, timeout_s, attempts

    def get(self, url: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> Response:
        """The answer, whatever its status is that needs no other try. Raises ServiceError."""
        place = urlsplit(url).netloc
        until, why = _down.get(place, (0.0, ""))
        if time.monotonic() < until:
            raise ServiceError(f"{self.name} could not be reached a moment ago: {why}")
        number, answer = 0, _Later("not asked")
        while number < self.attempts and (answer.after_s or 0) <= LONGEST_WAIT_S:
            if number:
                time.sleep(answer.after_s if answer.after_s is not None else FIRST_WAIT_S * 2 ** (number - 1) * min(1.0, self.pause_s))
            number += 1
            with self._turn():
                got = self._attempt(url, params, headers)
            if isinstance(got, Response):
                return got
            answer = got
        if answer.is_unreachable:
            _down[place] = (time.monotonic() + DOWN_S, answer.why)
        raise ServiceError(f"{self.name} gave no answer after {number} {'try' if number == 1 else 'tries'}: {answer.why}")

    def _attempt(self, url: str, params: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> Response | _Later:
        sent = {"user-agent": AGENT, **(headers or {})}
        try:
            with requests.get(url, params=params, headers=sent, timeout=(10, self.timeout_s), stream=True) as answer:
                if answer.status_code in AGAIN:
                    return _Later(f"status {answer.status_code}", _asked_wait(answer.headers.get("retry-after", "")))
                content = self._read(answer)
                return Response(answer.status_code, content, answer.headers.get("content-type", ""))
        except requests.Timeout:
            return _Later(f"no answer within {self.timeout_s:g} s", is_unreachable=True)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            return _Later(_short(error), is_unreachable=True)
        except requests.RequestException as error:
            raise ServiceError(f"{self.name}: {_short(error)}") from error

    def _read(self, answer: requests.Response) -> bytes:
        """The body, at most so long and in at most so much time, however slowly it drips."""
        parts, size, deadline = [], 0, time.monotonic() + 4 * self.timeout_s
        for part in answer.iter_content(1 << 16):
            parts.append(part)
            size += len(part)
            if size > LARGEST_BYTES:
                raise ServiceError(f"{self.name}: the answer is larger than {LARGEST_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise requests.Timeout
        return b"".join(parts)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Ours alone among all processes, and a pause after the last request of any of them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{self.name.lower().replace(' ', '-')}.turn", "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            last = file.read().strip()
            since = time.time() - float(last) if last else self.pause_s
            if 0 <= since < self.pause_s:
                time.sleep(self.pause_s - since)
            try:
                yield
            finally:
                file.seek(0)
                file.truncate()
                file.write(repr(time.time()))
                file.flush()


def _asked_wait(text: str) -> float | None:
    """Seconds that a Retry-After header asks for."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _short(error: Exception) -> str:
    """The innermost reason, for a person: 'Connection refused' and not the whole chain."""
    text = str(error)
    for mark in ("Name or service not known", "Temporary failure in name resolution", "Connection refused", "Network is unreachable"):
        if mark in text:
            return mark.lower()
    return f"{type(error).__name__}: {text[:150]}"
