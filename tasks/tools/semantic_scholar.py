"""Semantic Scholar's Graph API: search, a paper by identifier, a paper by title."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.tools.config import Sources
from tasks.tools.errors import ServiceError
from tasks.tools.papers import Paper, canonical, same_title
from tasks.tools.web import Web

FIELDS = "title,authors,year,abstract,externalIds"


class SemanticScholar:
    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        pause = sources.semantic_scholar_pause_s
        self.web = Web("Semantic Scholar", sources.folder, pause_s=pause, timeout_s=sources.timeout_s, attempts=sources.attempts)

    def search(self, query: str, limit: int = 10) -> list[Paper]:
        """Raises ServiceError."""
        data = self._get("/paper/search", {"query": query, "limit": str(limit), "fields": FIELDS})
        return [paper for row in _rows(data) if (paper := _paper(row))]

    def look_up(self, paper_id: str) -> Paper | None:
        """The paper of a canonical identifier, None if there is none. Raises ServiceError."""
        kind, _, name = paper_id.partition(":")
        asked = {"arXiv": f"ARXIV:{name}", "doi": f"DOI:{name}"}.get(kind, name)
        data = self._get(f"/paper/{asked}", {"fields": FIELDS})
        return _paper(data) if data else None

    def by_title(self, title: str) -> Paper | None:
        """The paper of this title, None if there is none. Raises ServiceError."""
        data = self._get("/paper/search/match", {"query": title, "fields": FIELDS})
        papers = [paper for row in _rows(data) if (paper := _paper(row))]
        return next((paper for paper in papers if same_title(paper.title, title)), None)

    def _get(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        """The JSON object; empty for a 404."""
        headers = {"x-api-key": self.sources.semantic_scholar_key} if self.sources.semantic_scholar_key else {}
        answer = self.web.get(self.sources.semantic_scholar + path, params, headers)
        if answer.status_code == 404:
            return {}
        try:
            data = json.loads(answer.content)
        except ValueError as error:
            raise ServiceError(f"Semantic Scholar answered with something that is no JSON (status {answer.status_code})") from error
        if answer.status_code != 200 or not isinstance(data, dict):
            told = data.get("error") or data.get("message") if isinstance(data, dict) else ""
            raise ServiceError(f"Semantic Scholar answered with status {answer.status_code}: {str(told)[:200]}")
        return data


def _rows(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = data.get("data") or []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _paper(row: Mapping[str, Any]) -> Paper | None:
    outer = row.get("externalIds") or {}
    ids = [
        found for text in (outer.get("ArXiv"), outer.get("DOI"), row.get("paperId")) if isinstance(text, str) and (found := canonical(text))
    ]
    if not ids or not row.get("title"):
        return None
    first, *others = dict.fromkeys(ids)
    return Paper(
        id=first,
        title=" ".join(str(row["title"]).split()),
        authors=tuple(str(author.get("name", "")) for author in row.get("authors") or ()),
        year=row["year"] if isinstance(row.get("year"), int) else None,
        abstract=" ".join(str(row.get("abstract") or "").split()),
        aliases=tuple(others),
        source="Semantic Scholar",
    )
