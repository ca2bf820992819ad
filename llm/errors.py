"""What can go wrong between us and a model.

ModelError: the call has no answer.
    NotConfigured   no key and no server: says what to set
    CallFailed      every attempt failed, or the server refused the request; `status` when it answered
    BudgetSpent     the run's limit does not allow the call: stop cleanly
Retry: one attempt failed for a reason that may pass; between a backend and the port alone.
AnswerError (not a ModelError: there is an answer, and it was paid for): it can't be used, and `reason` says why.
"""

from __future__ import annotations

from llm.types import Usage


class ModelError(RuntimeError):
    """A call that has no answer."""


class NotConfigured(ModelError):
    """No model is set up."""


class CallFailed(ModelError):
    """Given up after the last attempt, or not worth another one."""

    def __init__(self, text: str, *, status: int | None = None, attempts: int = 1) -> None:
        super().__init__(text)
        self.status = status
        self.attempts = attempts


class BudgetSpent(ModelError):
    """The limit of a run stops the call before it is made."""


class AnswerError(ValueError):
    """An answer that can't be used. `reason` is refused, parse_failure or cut_off."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Retry(Exception):
    """The attempt failed for a reason that may pass. `after_s` is what the server asked to wait; `lost` was paid for."""

    def __init__(self, text: str, *, status: int | None = None, after_s: float | None = None, lost: Usage | None = None) -> None:
        super().__init__(text)
        self.status, self.after_s, self.lost = status, after_s, lost or Usage()
