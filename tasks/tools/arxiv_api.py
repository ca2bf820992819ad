"""arXiv: search and look-up through the `arxiv` package, whose requests go through Web (pauses, retries, time-outs).

The package alone waits for ever, waits only between its own requests, and takes an error page for an empty answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import arxiv

from tasks.tools.config import Sources
from tasks.tools.corpus import COMMON
from tasks.tools.errors import ServiceError
from tasks.tools.papers import Paper, canonical
from tasks.tools.web import Response, Web

FIELD = re.compile(r"\b(?:ti|au|abs|co|jr|cat|rn|id|all):")
AT_ONCE = 100


class _Session:
    """What the package needs of a session."""

    def __init__(self, web: Web) -> None:
        self.web = web

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        answer = self.web.get(url, headers=headers)
        if answer.status_code == 200 and b"<feed" not in answer.content[:4000]:
            raise ServiceError(f"arXiv answered with something that is no Atom feed ({answer.content_type or 'no type'})")
        return answer


class Arxiv:
    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.web = Web("arXiv", sources.folder, pause_s=sources.arxiv_pause_s, timeout_s=sources.timeout_s, attempts=sources.attempts)

    def search(self, query: str, limit: int = 10) -> list[Paper]:
        """All words first, and if that finds nothing any of them. A query with fields (ti:, au:) is passed on. Raises ServiceError."""
        if FIELD.search(query):
            return self._ask(arxiv.Search(query=query, max_results=limit), limit)
        words = [word for word in re.findall(r"[\w-]+", query) if word.casefold() not in COMMON][:10]
        if not words:
            return []
        found = self._ask(arxiv.Search(query=" AND ".join(f"all:{word}" for word in words), max_results=limit), limit)
        if found or len(words) == 1:
            return found
        return self._ask(arxiv.Search(query=" OR ".join(f"all:{word}" for word in words), max_results=limit), limit)

    def look_up(self, ids: Sequence[str]) -> dict[str, Paper]:
        """Of these canonical arXiv identifiers those that exist. Raises ServiceError."""
        found: dict[str, Paper] = {}
        for start in range(0, len(ids), AT_ONCE):
            part = [paper_id.removeprefix("arXiv:") for paper_id in ids[start : start + AT_ONCE]]
            found |= {paper.id: paper for paper in self._ask(arxiv.Search(id_list=part, max_results=len(part)), len(part))}
        return {paper_id: found[paper_id] for paper_id in ids if paper_id in found}

    def file(self, paper_id: str, kind: str) -> bytes | None:
        """A paper's file: kind is src (LaTeX source), html or pdf. None if arXiv has none. Raises ServiceError."""
        answer = self.web.get(f"{self.sources.arxiv_files}/{kind}/{paper_id.removeprefix('arXiv:')}")
        if answer.status_code == 200:
            return answer.content
        if answer.status_code in (404, 410):
            return None
        raise ServiceError(f"arXiv answered with status {answer.status_code} for {kind} of {paper_id}")

    def _ask(self, search: arxiv.Search, size: int) -> list[Paper]:
        client = arxiv.Client(page_size=size, delay_seconds=0, num_retries=0)
        client.query_url_format = self.sources.arxiv_api + "?{}"
        client._session = _Session(self.web)  # the one way to a time-out and to our pauses
        try:
            results = list(client.results(search))
        except arxiv.HTTPError as error:
            if error.status == 400:  # how arXiv answers to identifiers that can't exist
                return []
            raise ServiceError(f"arXiv answered with status {error.status}") from error
        except (arxiv.ArxivError, ValueError) as error:
            raise ServiceError(f"arXiv's answer can't be read: {error}") from error
        return [paper for result in results if (paper := _paper(result))]


def _paper(result: Any) -> Paper | None:
    if "/api/errors" in result.entry_id:
        if "incorrect id" in result.summary:
            return None
        raise ServiceError(f"arXiv refused the query: {result.summary.strip()[:200]}")
    paper_id = canonical(result.get_short_id())
    if paper_id is None:
        return None
    return Paper(
        id=paper_id,
        title=" ".join(result.title.split()),
        authors=tuple(author.name for author in result.authors),
        year=result.published.year,
        abstract=" ".join(result.summary.split()),
        aliases=(f"doi:{result.doi.lower()}",) if result.doi else (),
        source="arXiv",
    )
