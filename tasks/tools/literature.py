"""The tools of the literature task: web_search, get_paper_introduction, get_paper_results. And the look-up that graders use.

Everything that is found or fetched goes into the local corpus, so that nothing is asked for twice, and what was there before
works without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from tasks.tools.arxiv_api import Arxiv
from tasks.tools.config import Sources, read_sources
from tasks.tools.corpus import Corpus
from tasks.tools.doi import DoiRegistry
from tasks.tools.errors import ExtractError, ServiceError, ToolError
from tasks.tools.extract import extract
from tasks.tools.papers import Paper, canonical
from tasks.tools.semantic_scholar import SemanticScholar
from tasks.tools.tool import Tool

RESULTS_SHOWN = 10
ABSTRACT_SHOWN = 700
# arXiv's three forms of a paper, best first: (folder of the site, reader, what it is called).
FORMS = (("src", "latex", "LaTeX source"), ("html", "html", "HTML"), ("pdf", "pdf", "PDF"))
NO_NETWORK = "LITERATURE_NETWORK is off"


@dataclass(frozen=True)
class Lookup:
    """Whether a paper exists: `paper`, or `is_missing` (those who would know it do not), or neither: nobody could be asked."""

    paper: Paper | None = None
    where: str = ""
    is_missing: bool = False


class Literature:
    """The corpus and, where there is a network, arXiv and Semantic Scholar."""

    def __init__(self, sources: Sources | None = None) -> None:
        self.sources = sources or read_sources()
        self.corpus = Corpus(self.sources.corpus)
        self.arxiv = Arxiv(self.sources)
        self.semantic_scholar = SemanticScholar(self.sources)
        self.registry = DoiRegistry(self.sources)

    def tools(self) -> list[Tool]:
        what = {"paper_id": "an identifier as web_search gives it: arXiv:2309.12307, doi:10.1000/xyz or s2:<40 hex>"}
        searching = "Search arXiv, Semantic Scholar and the local corpus. Returns titles, identifiers, authors, years and abstracts."
        return [
            Tool("web_search", searching, {"query": "a few words, a title, or a name"}, self.web_search),
            Tool(
                "get_paper_introduction", "A paper's introduction, with its authors' own review of earlier work.", what, self.introduction
            ),
            Tool("get_paper_results", "A paper's experiments and results, tables included.", what, self.results),
        ]

    # --- what the model calls ---

    def web_search(self, query: str) -> str:
        notes: list[str] = []
        lists = [self.corpus.search(query, RESULTS_SHOWN)]
        for name, search in (("arXiv", self.arxiv.search), ("Semantic Scholar", self.semantic_scholar.search)):
            lists.append(self._searched(name, search, query, notes))
        papers = _merged(lists)[:RESULTS_SHOWN]
        if not papers and len(notes) == 2:
            raise ToolError(
                f"nothing in the local corpus ({self.corpus.count()} papers), and nobody else could be asked. {' '.join(notes)}"
            )
        shown = [_shown(number, paper) for number, paper in enumerate(papers, 1)]
        return "\n\n".join([*(shown or ["No paper was found. Try other or fewer words."]), *(f"Note: {note}" for note in notes)])

    def introduction(self, paper_id: str) -> str:
        return self._part(paper_id, "introduction")

    def results(self, paper_id: str) -> str:
        return self._part(paper_id, "results")

    # --- look-ups ---

    def look_up(self, paper_id: str) -> Lookup:
        """Does the paper of this canonical identifier exist? Never raises for a service that can't be asked."""
        if paper := self.corpus.get(paper_id):
            return Lookup(paper, "local corpus")
        if said := self.corpus.why_missing(paper_id):
            return Lookup(None, said, is_missing=True)
        if not self.sources.has_network or paper_id.startswith(("file:", "local:")):
            return Lookup(None, NO_NETWORK)
        try:
            if paper_id.startswith("arXiv:"):
                where, paper = "arXiv", self.arxiv.look_up([paper_id]).get(paper_id)
            else:
                where, paper = "Semantic Scholar", self.semantic_scholar.look_up(paper_id)
                if paper is None and paper_id.startswith("doi:"):
                    where, paper = "doi.org", self.registry.look_up(paper_id)
        except ServiceError as error:
            return Lookup(None, str(error))
        if paper is None:
            self.corpus.add_missing(paper_id, where)
            return Lookup(None, where, is_missing=True)
        self.corpus.add(paper)
        return Lookup(self.corpus.get(paper_id), where)

    def look_up_all(self, ids: Sequence[str]) -> None:
        """Bring many arXiv papers into the corpus by few requests, before they are looked up one by one."""
        unknown = [i for i in ids if i.startswith("arXiv:") and not self.corpus.get(i) and not self.corpus.why_missing(i)]
        if not unknown or not self.sources.has_network:
            return
        try:
            found = self.arxiv.look_up(unknown)
        except ServiceError:
            return
        self.corpus.add_all(found.values())
        for paper_id in unknown:
            if paper_id not in found:
                self.corpus.add_missing(paper_id, "arXiv")

    def look_up_title(self, title: str, year: int | None) -> Lookup:
        """Missing only if both services have answered and neither has it."""
        if paper := self.corpus.by_title(title, year):
            return Lookup(paper, "local corpus")
        if not self.sources.has_network:
            return Lookup(None, NO_NETWORK)
        try:
            if found := self.semantic_scholar.by_title(title):
                self.corpus.add(found)
                return Lookup(found, "Semantic Scholar")
            words = title.replace('"', " ").replace(":", " ")
            candidates = self.arxiv.search(f'ti:"{" ".join(words.split())}"', 5)
        except ServiceError as error:
            return Lookup(None, str(error))
        self.corpus.add_all(candidates)
        paper = self.corpus.by_title(title, year)
        return Lookup(paper, "arXiv") if paper else Lookup(None, "arXiv and Semantic Scholar", is_missing=True)

    def with_text(self, paper: Paper) -> Paper:
        """The paper with its full text, fetched if it has none yet. Raises ToolError if that can't be had."""
        if paper.full_text:
            return paper
        arxiv_id = next((name for name in (paper.id, *paper.aliases) if name.startswith("arXiv:")), None)
        if arxiv_id is None:
            raise ToolError(f"{paper.id} is not on arXiv, and texts are fetched from there only")
        if not self.sources.has_network:
            raise ToolError(f"the text of {paper.id} is not in the local corpus, and {NO_NETWORK}")
        fetched = self._fetch(arxiv_id, paper)
        self.corpus.add(fetched)
        return self.corpus.get(paper.id) or fetched

    def _fetch(self, arxiv_id: str, paper: Paper) -> Paper:
        """The paper with the texts of the best form that can be read."""
        reasons = []
        for folder, kind, name in FORMS:
            data = self.arxiv.file(arxiv_id, folder)
            if data is None:
                reasons.append(f"no {name}")
                continue
            try:
                parts = extract(kind, data)
            except ExtractError as error:
                reasons.append(f"{name}: {error}")
                continue
            if parts.introduction or parts.results:
                return replace(
                    paper,
                    introduction=parts.introduction,
                    results=parts.results,
                    full_text=parts.full_text,
                    text_source=f"{name} from arXiv",
                )
            reasons.append(f"{name}: no sections were recognised")
        raise ToolError(f"no text of {arxiv_id} could be read: {'; '.join(reasons)}")

    # --- parts of these ---

    def _part(self, text: str, part: str) -> str:
        paper_id = canonical(text)
        if paper_id is None:
            raise ToolError(
                f"paper_id is {text[:80]!r}, must be like arXiv:2309.12307, doi:10.1000/xyz or s2:<40 hex>; web_search gives them"
            )
        found = self.look_up(paper_id)
        if found.paper is None:
            told = (
                f"{found.where} has no paper {paper_id}"
                if found.is_missing
                else f"{paper_id} is not in the local corpus, and {found.where}"
            )
            raise ToolError(told)
        paper = found.paper if getattr(found.paper, part) else self.with_text(found.paper)
        body = getattr(paper, part)
        if not body:
            raise ToolError(f"no section of {paper_id} was recognised as its {part}; the other tool may find what you look for")
        return f"{paper.id} {paper.line}\n({part}, from {paper.text_source or paper.source or 'the local corpus'})\n\n{body}"

    def _searched(self, name: str, search: Callable[[str, int], list[Paper]], query: str, notes: list[str]) -> list[Paper]:
        if not self.sources.has_network:
            notes.append(f"{name} was not asked: {NO_NETWORK}.")
            return []
        try:
            papers = search(query, RESULTS_SHOWN)
        except ServiceError as error:
            notes.append(f"{error}.")
            return []
        self.corpus.add_all(papers)
        return papers


def _merged(lists: Iterable[Sequence[Paper]]) -> list[Paper]:
    """One list, from each of the others in turn, each paper once."""
    papers: list[Paper] = []
    seen: set[str] = set()
    for row in zip_longest(*lists):
        for paper in filter(None, row):
            if seen.isdisjoint({paper.id, *paper.aliases}):
                papers.append(paper)
            seen |= {paper.id, *paper.aliases}
    return papers


def _shown(number: int, paper: Paper) -> str:
    text = paper.abstract or "; ".join(paper.facts)
    if len(text) > ABSTRACT_SHOWN:
        text = text[:ABSTRACT_SHOWN].rsplit(" ", 1)[0] + " …"
    return f"{number}. [{paper.id}] {paper.line}\n   {text or '(no abstract here)'}"
