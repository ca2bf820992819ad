"""How models are reached, from the environment. docs/judges.md describes each name.

Nothing has to be set for a hosted model but ANTHROPIC_API_KEY; a server of one's own needs ANTHROPIC_BASE_URL alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm.errors import NotConfigured
from llm.prices import Prices, read_table

MODES = ("auto", "native", "tool", "text")
NOT_SET = (
    "no model is set up: set ANTHROPIC_API_KEY to a key, or ANTHROPIC_BASE_URL to a server that speaks the Messages API "
    "(llama.cpp, Ollama, vLLM, a LiteLLM proxy); docs/judges.md shows how"
)


@dataclass(frozen=True)
class Config:
    """`structure`: how answers in a form are asked for (structure.py). `folder`: where calls and limits are kept."""

    api_key: str = ""
    base_url: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight: int = 100
    attempts: int = 8
    structure: str = "auto"
    prices: Prices = field(default_factory=Prices)
    folder: Path = Path("data")

    @property
    def is_ready(self) -> bool:
        return bool(self.api_key or self.base_url)

    @property
    def account(self) -> str:
        """Whose limits these are: one server."""
        return (self.base_url or "anthropic")[:150]

    def require_ready(self) -> None:
        """Raises NotConfigured, which says what to set."""
        if not self.is_ready:
            raise NotConfigured(NOT_SET)


def read_config(env: Mapping[str, str] | None = None) -> Config:
    """The configuration as it is now. Raises ValueError naming the value and what is allowed."""
    env = os.environ if env is None else env
    structure = env.get("LLM_STRUCTURE", "").strip() or "auto"
    if structure not in MODES:
        raise ValueError(f"LLM_STRUCTURE is {structure!r}, allowed: {', '.join(MODES)}")
    return Config(
        api_key=env.get("ANTHROPIC_API_KEY", "").strip(),
        base_url=env.get("ANTHROPIC_BASE_URL", "").strip(),
        requests_per_minute=_count(env, "LLM_REQUESTS_PER_MINUTE"),
        tokens_per_minute=_count(env, "LLM_TOKENS_PER_MINUTE"),
        in_flight=_count(env, "LLM_IN_FLIGHT") or 100,
        attempts=_count(env, "LLM_ATTEMPTS") or 8,
        structure=structure,
        prices=Prices(read_table(env.get("LLM_PRICES", "").strip())),
        folder=Path(env.get("DATA_DIR", "").strip() or Path(__file__).parent.parent / "data") / "llm",
    )


def _count(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name} is {text!r}, must be a whole number above 0, or empty")
    return int(text)
