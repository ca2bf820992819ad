"""doi.org: whether a DOI has been given out. It knows every one, also those that Semantic Scholar does not have."""

from __future__ import annotations

import json
from urllib.parse import quote

from tasks.tools.config import Sources
from tasks.tools.errors import ServiceError
from tasks.tools.papers import Paper
from tasks.tools.web import Web

GIVEN, NOT_GIVEN = 1, 100


class DoiRegistry:
    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        pause = sources.semantic_scholar_pause_s
        self.web = Web("doi.org", sources.folder, pause_s=pause, timeout_s=sources.timeout_s, attempts=sources.attempts)

    def look_up(self, paper_id: str) -> Paper | None:
        """A paper without title and authors, None if there is no such DOI. Raises ServiceError."""
        answer = self.web.get(f"{self.sources.doi}/api/handles/{quote(paper_id.removeprefix('doi:'), safe='/')}")
        try:
            code = json.loads(answer.content)["responseCode"]
        except (ValueError, TypeError, KeyError) as error:
            raise ServiceError(f"doi.org answered with something that is no handle (status {answer.status_code})") from error
        if code not in (GIVEN, NOT_GIVEN):
            raise ServiceError(f"doi.org answered with code {code}")
        return Paper(paper_id, source="doi.org") if code == GIVEN else None
