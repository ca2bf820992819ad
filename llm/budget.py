"""The limits of a run: money, tokens, calls. What a run may still cost at worst is set aside before each call.

So a run never goes above its limit, however many calls are in flight: a call for which nothing is left waits while other
calls hold money that they may give back, and is refused (BudgetSpent) when none do. The calls under way end normally.
Where several processes work on one run, money is set aside in a Ledger that they share, too.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

from llm.errors import BudgetSpent

REST_S = 0.5  # how long a process asks the ledger no more, once others hold what it wants


@dataclass(frozen=True)
class Amount:
    usd: float = 0.0
    tokens: int = 0
    calls: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.usd + other.usd, self.tokens + other.tokens, self.calls + other.calls)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.usd - other.usd, self.tokens - other.tokens, self.calls - other.calls)


class Ledger(Protocol):
    """Where the processes that work on one run set its money aside. Its methods block, and are called from one thread."""

    def hold(self, key: str, usd: float, limit_usd: float) -> bool:
        """Set it aside under a key; False if others must end first. Raises BudgetSpent when it can't be had at all."""
        ...

    def settle(self, key: str, *, is_known: bool) -> None:
        """The call has ended. `is_known`: what it cost is stored, or it was not made; else nobody knows what it cost."""
        ...

    def close(self) -> None: ...


class Budget:
    """None is no limit. `spent` is what the run has cost before. For any number of threads of one process."""

    def __init__(
        self,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        spent: Amount | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.usd, self.tokens, self.calls, self.ledger = usd, tokens, calls, ledger
        self.spent, self.held = spent or Amount(), Amount()
        self._rests_until = 0.0
        self._lock = threading.Lock()

    def hold(self, worst: Amount, *, has_price: bool = True) -> bool:
        """Set the worst case aside; False if others must end first. Raises BudgetSpent when it can't be had at all."""
        if self.usd is not None and not has_price:
            raise BudgetSpent("the run has a spending limit, and its model has no known price: give one in LLM_PRICES")
        with self._lock:
            if why := self._exceeded(self.spent + worst):
                raise BudgetSpent(f"{why}, and the next call may use {self._shown(worst, why)}: raise the limit to go on")
            if time.monotonic() < self._rests_until or self._exceeded(self.spent + self.held + worst):
                return False
            self.held += worst
            return True

    def settle(self, held: Amount, used: Amount) -> None:
        with self._lock:
            self.held -= held
            self.spent += used
            self._rests_until = 0.0

    def rest(self) -> None:
        """Another process holds what is wanted: no use in asking again at once."""
        self._rests_until = time.monotonic() + REST_S

    def _exceeded(self, amount: Amount) -> str:
        """Which limit the amount is above, told with what is spent; or ""."""
        if self.usd is not None and amount.usd > self.usd:
            return over_limit(self.usd, self.spent.usd)
        if self.tokens is not None and amount.tokens > self.tokens:
            return f"token limit of {self.tokens:,}: {self.spent.tokens:,} are used"
        if self.calls is not None and amount.calls > self.calls:
            return f"call limit of {self.calls:,}: {self.spent.calls:,} are made"
        return ""

    @staticmethod
    def _shown(worst: Amount, why: str) -> str:
        if why.startswith("spending"):
            return f"${worst.usd:.4f}"
        return f"{worst.tokens:,} tokens" if why.startswith("token") else "one more"


def over_limit(limit_usd: float, spent_usd: float) -> str:
    return f"spending limit of ${limit_usd:.2f}: ${spent_usd:.4f} is spent"
