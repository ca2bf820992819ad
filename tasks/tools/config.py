"""Where papers are looked up, from the environment. docs/literature-tools.md describes each name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sources:
    """`pause_s`: the least time between two requests to arXiv, whose rule is three seconds, and to Semantic Scholar."""

    corpus: Path = Path("data/corpus.sqlite3")
    has_network: bool = True
    arxiv_api: str = "https://export.arxiv.org/api/query"
    arxiv_files: str = "https://export.arxiv.org"
    semantic_scholar: str = "https://api.semanticscholar.org/graph/v1"
    semantic_scholar_key: str = ""
    doi: str = "https://doi.org"
    arxiv_pause_s: float = 3.0
    semantic_scholar_pause_s: float = 1.0
    timeout_s: float = 30.0
    attempts: int = 3

    @property
    def folder(self) -> Path:
        """Where the processes of this machine agree on whose turn it is."""
        return self.corpus.parent


def read_sources(env: Mapping[str, str] | None = None) -> Sources:
    """As the environment says now. Raises ValueError naming the value and what is allowed."""
    env = os.environ if env is None else env
    network = env.get("LITERATURE_NETWORK", "").strip().lower() or "on"
    if network not in ("on", "off"):
        raise ValueError(f"LITERATURE_NETWORK is {network!r}, allowed: on, off")
    folder = Path(env.get("DATA_DIR", "").strip() or Path(__file__).parents[2] / "data")
    defaults = Sources()
    return Sources(
        corpus=folder / "corpus.sqlite3",
        has_network=network == "on",
        arxiv_api=env.get("ARXIV_API_URL", "").strip() or defaults.arxiv_api,
        arxiv_files=(env.get("ARXIV_URL", "").strip() or defaults.arxiv_files).rstrip("/"),
        semantic_scholar=(env.get("SEMANTIC_SCHOLAR_URL", "").strip() or defaults.semantic_scholar).rstrip("/"),
        semantic_scholar_key=env.get("SEMANTIC_SCHOLAR_API_KEY", "").strip(),
        doi=(env.get("DOI_URL", "").strip() or defaults.doi).rstrip("/"),
        arxiv_pause_s=_seconds(env, "ARXIV_PAUSE_S", defaults.arxiv_pause_s),
        semantic_scholar_pause_s=_seconds(env, "SEMANTIC_SCHOLAR_PAUSE_S", defaults.semantic_scholar_pause_s),
    )


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError(f"{name} is {text!r}, must be seconds from 0 to 3600, or empty")
    return value
