"""What a call costs: an overriding table first, then the prices that genai-prices ships (nothing is fetched).

The table is JSON, US dollars a million tokens:
    {"my-local-model": {"input": 0, "output": 0}, "claude-x": {"input": 3, "output": 15, "cache_read": 0.3, "cache_write": 3.75}}
A model that neither knows has no price: its cost is None (unknown), never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.types import Usage

BATCH_SHARE = 0.5  # a batch costs half
FIELDS = {"input", "output", "cache_read", "cache_write"}


@dataclass(frozen=True)
class Prices:
    table: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    provider: str | None = "anthropic"

    def cost(self, model: str, usage: Usage, *, is_batch: bool = False) -> float | None:
        """US dollars, or None when the model has no price."""
        share = BATCH_SHARE if is_batch else 1.0
        if row := self.table.get(model):
            return share * _by_table(row, usage)
        found = _by_package(model, usage, self.provider)
        return None if found is None else share * found


def read_table(text: str) -> dict[str, dict[str, float]]:
    """The table from JSON, or from a file's path. Raises ValueError with what is wrong."""
    if not text:
        return {}
    source = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
    try:
        table = json.loads(source)
    except json.JSONDecodeError as error:
        raise ValueError(f"LLM_PRICES is no JSON: {error}") from error
    for model, row in table.items():
        is_fine = isinstance(row, dict) and {"input", "output"} <= set(row) <= FIELDS and all(_is_price(v) for v in row.values())
        if not is_fine:
            raise ValueError(f"LLM_PRICES: {model} is {row!r}, must have input and output, and may have cache_read and cache_write")
    return dict(table)


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6


def _by_table(row: Mapping[str, float], usage: Usage) -> float:
    plain = row["input"]
    cached = usage.cache_read * row.get("cache_read", plain) + usage.cache_write * row.get("cache_write", plain)
    return (usage.input * plain + usage.output * row["output"] + cached) / 1e6


def _by_package(model: str, usage: Usage, provider: str | None) -> float | None:
    from genai_prices import Usage as Counted  # noqa: PLC0415 - 0.2 s, for those who make calls
    from genai_prices import calc_price  # noqa: PLC0415

    counted = Counted(
        input_tokens=usage.input + usage.cache_read + usage.cache_write,  # there the total, in the API what is not cached
        output_tokens=usage.output,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
    )
    try:
        return float(calc_price(counted, model, provider_id=provider).total_price)
    except LookupError:
        return None
