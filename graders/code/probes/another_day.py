"""Clocks that are another day's, for what a program computes only later. Runs INSIDE the sandbox, beside untrusted code."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

LATER_S = 401 * 86_400 + 7 * 3_600 + 31 * 60 + 17  # over a year, another weekday, another hour
CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")


@contextmanager
def another_day(module: ModuleType) -> Iterator[None]:
    """While it is entered, clocks are ahead: those of `time` and `datetime`, also under the names that the module gave them."""
    ahead: dict[int, Any] = {id(getattr(time, name)): _ahead(getattr(time, name), LATER_S) for name in CLOCKS}
    ahead |= {id(clock): _ahead(clock, LATER_S * 10**9) for name in CLOCKS if (clock := getattr(time, f"{name}_ns", None))}
    ahead |= {id(datetime.datetime): _Moment, id(datetime.date): _Day}
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for names in (vars(time), vars(datetime), vars(module)):
        changed += [(names, name, value) for name, value in names.items() if id(value) in ahead]
    for names, name, value in changed:
        names[name] = ahead[id(value)]
    try:
        yield
    finally:
        for names, name, value in changed:
            names[name] = value


def _ahead(clock: Callable[[], Any], by: int) -> Callable[[], Any]:
    return lambda: clock() + by


class _Moment(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(_time(), tz)

    today = utcnow = now


class _Day(datetime.date):
    @classmethod
    def today(cls) -> Any:
        return cls.fromtimestamp(_time())


_time = _ahead(time.time, LATER_S)
