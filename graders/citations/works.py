"""Which paper a citation means, and whether there is such a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graders.citations.find import Citation, Found, Reference
from tasks.tools.errors import ToolError
from tasks.tools.literature import Literature
from tasks.tools.papers import Paper, folded, has_author, same_title

MOST_WORKS, MOST_ENTRIES = 1_000, 1_000


@dataclass(frozen=True)
class Work:
    """`status` is found, not_found or not_checkable; `why` says it for a person, `where` who knew the paper."""

    status: str
    why: str
    paper: Paper | None = None
    where: str = ""


class Works:
    """The works of one text. Each is looked up once."""

    def __init__(self, literature: Literature, found: Found) -> None:
        self.literature = literature
        self.mentions = [citation for sentence in found.sentences for citation in sentence.citations]
        self.references = found.references
        self._works: dict[str, Work] = {}
        self._by_name: dict[tuple[str, int | None], Citation] = {}
        for other in self.mentions:
            for name in other.names if other.id or other.title else ():
                self._by_name.setdefault((folded(name), other.year), other)
        self._entries_of_year: dict[int | None, list[tuple[str, Citation]]] = {}
        for entry in self.references[:MOST_ENTRIES]:
            self._entries_of_year.setdefault(entry.citation.year, []).append((f" {folded(entry.text)} ", entry.citation))

    def prepare(self) -> None:
        """Ask for all arXiv numbers at once."""
        ids = [citation.id for citation in (*self.mentions, *(entry.citation for entry in self.references))]
        self.literature.look_up_all(list(dict.fromkeys(paper_id for paper_id in ids if paper_id))[:MOST_WORKS])

    def key(self, citation: Citation) -> str:
        return self._meant(citation).key

    def of(self, citation: Citation) -> Work:
        meant = self._meant(citation)
        # The same identifier under another name is another claim.
        key = f"{meant.key} {folded(' '.join(meant.names[:1]))}"
        if key not in self._works:
            self._works[key] = self._look_up(meant)
        return self._works[key]

    def with_text(self, work: Work) -> Work:
        """The work with its paper's full text, if that can be had."""
        if work.paper is None or work.paper.full_text:
            return work
        try:
            return replace(work, paper=self.literature.with_text(work.paper))
        except ToolError:
            return work

    def _meant(self, citation: Citation) -> Citation:
        """An author with a year may be explained by another mention or by the references."""
        if citation.id or citation.title:
            return citation
        name = folded(citation.names[0])
        if other := self._by_name.get((name, citation.year)):
            return replace(other, names=citation.names)
        for words, entry in self._entries_of_year.get(citation.year, ()):
            if f" {name} " in words:
                return replace(entry, names=citation.names)
        return citation

    def _look_up(self, citation: Citation) -> Work:
        if citation.id:
            found = self.literature.look_up(citation.id)
            if found.paper:
                return self._checked(citation, found.paper, found.where)
            if found.is_missing:
                return Work("not_found", f"{citation.id} does not exist ({found.where})")
            return Work("not_checkable", f"{citation.id} could not be looked up: {found.where}")
        if citation.title:
            found = self.literature.look_up_title(citation.title, citation.year)
            if found.paper:
                return self._checked(citation, found.paper, found.where)
            if found.is_missing:
                return Work("not_found", f"no paper of this title is known to {found.where}")
            return Work("not_checkable", f"the title could not be looked up: {found.where}")
        return self._by_author(citation)

    def _by_author(self, citation: Citation) -> Work:
        papers = self.literature.corpus.by_author(citation.names, citation.year or 0)
        who = f"{citation.names[0]} {citation.year}"
        if len(papers) == 1:
            return Work("found", "found by author and year", papers[0], "local corpus")
        if papers:
            return Work("not_checkable", f"{len(papers)} papers of {who} are known, and nothing says which one is meant")
        return Work("not_checkable", f"an author and a year alone ({who}) can't be looked up, and the references do not explain them")

    def _checked(self, citation: Citation, paper: Paper, where: str) -> Work:
        """The identifier exists; is it the work that is meant?"""
        if _is_another(citation, paper) or any(_entry_is_another(entry, paper) for entry in self._entries(citation)):
            return Work("not_found", f"{citation.id or 'it'} is another paper: {paper.line}", paper, where)
        return Work("found", f"found in {where}", paper, where)

    def _entries(self, citation: Citation) -> Sequence[Reference]:
        return [entry for entry in self.references[:MOST_ENTRIES] if citation.id and entry.citation.id == citation.id]


def _is_another(citation: Citation, paper: Paper) -> bool:
    if citation.title and same_title(citation.title, paper.title):
        return False
    if citation.names and paper.authors:
        return not has_author(paper, citation.names[0])
    return False


def _entry_is_another(entry: Reference, paper: Paper) -> bool:
    """Neither the title nor any author of the paper stands in the entry, although it has words enough to."""
    told = set(folded(entry.text).split())
    title = [word for word in folded(paper.title).split() if len(word) > 2]
    shared = sum(word in told for word in title) / max(1, len(title))
    is_named = any(folded(author).split()[-1:] and folded(author).split()[-1] in told for author in paper.authors[:10])
    return len(told) >= 6 and shared < 0.5 and not is_named
