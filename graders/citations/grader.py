"""citations: does each cited work exist, and does its text bear the numbers that are cited from it?

Deterministic: no model has a part in it. Looked up in the local corpus, and where there is a network in arXiv and Semantic
Scholar. Each work is one check (found, not_found), each cited number one more (number_supported, number_not_supported);
what nobody could decide is not_checkable and counts neither way. The score is the share of checks that went well.

It sees whether a number stands in the paper, not whether it stands there for the same thing: a judge or a person sees that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from graders.citations.find import Citation, Found, Sentence, find_citations
from graders.citations.quantities import Bearing, Quantity
from graders.citations.works import Work, Works
from graders.code import sha256_of_files
from graders.grade import CriterionScore, Evidence, Grade, GraderError
from tasks.task import Criterion, Rubric, Task, weighted_overall
from tasks.tools import papers
from tasks.tools.config import read_sources
from tasks.tools.literature import Literature

CRITERION = "citations"
GOOD, BAD = ("found", "number_supported"), ("not_found", "number_not_supported")
STATUSES = (*GOOD, *BAD, "not_checkable")
QUOTE_CHARS = 400
MOST_CHECKS = 1_000


@dataclass(frozen=True)
class Check:
    """One work, or one number of a sentence. `number` and `said` (what the paper says) are empty for a work."""

    status: str
    why: str
    quote: str
    line_start: int
    line_end: int
    work: str
    paper: papers.Paper | None = None
    where: str = ""
    number: str = ""
    said: str = ""

    @property
    def evidence(self) -> Evidence:
        paper = self.paper
        about = {
            "status": self.status,
            "why": self.why,
            "work": paper.id if paper else self.work,
            "title": paper.title if paper else "",
            "year": paper.year if paper else None,
            "url": papers.url_of(paper.id if paper else self.work),
            "where": self.where,
            "number": self.number,
            "said": self.said,
        }
        return Evidence(self.quote[:QUOTE_CHARS], "quote", self.line_start, self.line_end, about={k: v for k, v in about.items() if v})


class CitationsGrader:
    """`make_literature` says where to look things up; the default reads the environment at each grading."""

    name = "citations"
    version = "1"
    kind = "code"
    runs_code = False
    tasks = ("literature_review",)

    def __init__(self, make_literature: Callable[[], Literature] | None = None) -> None:
        self._make_literature = make_literature

    @cached_property
    def sha256(self) -> str:
        own = Path(__file__).parent.glob("*.py")
        return sha256_of_files(*own, Path(papers.__file__), Path(papers.__file__).with_name("literature.py"))

    def criteria(self, task: str) -> tuple[str, ...]:
        return (CRITERION,)

    def grade(
        self,
        task: Task,
        source: str,
        *,
        timeout_s: float | None = None,
        backend: str = "auto",
        on_progress: Callable[[str], None] | None = None,
    ) -> Grade:
        """`timeout_s` bounds the fetching of papers; what was not fetched by then is checked by what is here."""
        began = time.monotonic()
        deadline = began + timeout_s if timeout_s else None
        say = on_progress or (lambda text: None)
        say("looking for citations")
        checks = check_citations(source, self._literature(), say, deadline)
        criteria = [_score(checks, c) for c in task.rubric.criteria if c.key == CRITERION]
        return Grade(
            task=task.slug,
            criteria=tuple(criteria),
            # It sees one criterion of several: no overall verdict follows from it.
            passed=None,
            score=_overall(task.rubric, criteria),
            failure_category="wrong_citations" if any(check.status == "not_found" for check in checks) else "",
            duration_s=round(time.monotonic() - began, 3),
            grader={"name": self.name, "version": self.version, "sha256": self.sha256},
        )

    def _literature(self) -> Literature:
        if self._make_literature:
            return self._make_literature()
        try:
            return Literature(read_sources())
        except ValueError as error:
            raise GraderError(str(error)) from error


def check_citations(source: str, literature: Literature, say: Callable[[str], None], deadline: float | None = None) -> list[Check]:
    """Every check of a text, in its order: works where they are first cited, then their numbers."""
    found = find_citations(source)
    works = Works(literature, found)
    say("looking up works")
    works.prepare()
    checks = islice(chain(_work_checks(found, works), _number_checks(found, works, say, deadline)), MOST_CHECKS)
    return sorted(checks, key=lambda check: check.line_start)


def _work_checks(found: Found, works: Works) -> Iterator[Check]:
    """Each work once; under each name that it is given, since a wrong name is a wrong citation."""
    seen: set[tuple[str, str]] = set()
    for sentence in found.sentences:
        for citation in sentence.citations:
            work = works.of(citation)
            key = (works.key(citation), work.status)
            if key not in seen:
                seen.add(key)
                line = sentence.line_start + sentence.text[: max(0, citation.start - sentence.start)].count("\n")
                yield _work_check(work, works.key(citation), citation.text, line)
    for entry in found.references:
        work = works.of(entry.citation)
        key = (works.key(entry.citation), work.status)
        if key not in seen:
            seen.add(key)
            yield _work_check(work, works.key(entry.citation), entry.text, entry.line)


def _work_check(work: Work, key: str, quote: str, line: int) -> Check:
    return Check(work.status, work.why, quote, line, line + quote.count("\n"), key, work.paper, work.where)


def _number_checks(found: Found, works: Works, say: Callable[[str], None], deadline: float | None) -> Iterator[Check]:
    for sentence in found.sentences:
        seen: set[tuple[object, str]] = set()
        for number in sentence.numbers:
            if (number.value, number.unit) in seen:
                continue
            seen.add((number.value, number.unit))
            say(f"line {sentence.line_start}: {number.text}")
            yield _check_number(sentence, number, works, deadline)


def _check_number(sentence: Sentence, number: Quantity, works: Works, deadline: float | None) -> Check:
    """It is enough that one work bears it: of its own sentence, the nearest first, or cited before in the same paragraph."""
    at = sentence.start + number.start
    own = sorted(sentence.citations, key=lambda citation: min(abs(citation.start - at), abs(citation.end - at)))
    verdicts = []
    for citation in (*own, *sentence.before):
        check = _check_by(sentence, number, citation, works, deadline)
        if check.status == "number_supported":
            return check
        verdicts.append(check)
    if not own:
        return verdicts[0]
    verdicts = verdicts[: len(own)]
    return next((check for check in verdicts if check.status == "not_checkable"), verdicts[0])


def _check_by(sentence: Sentence, number: Quantity, citation: Citation, works: Works, deadline: float | None) -> Check:
    work = works.of(citation)

    def check(status: str, why: str, said: str = "") -> Check:
        place = (sentence.text, sentence.line_start, sentence.line_end, works.key(citation))
        return Check(status, why, *place, work.paper, work.where, number.text, said)

    if work.status == "not_found":
        return check("number_not_supported", "the paper that is cited for it was not found")
    if work.paper is None:
        return check("not_checkable", work.why)
    finding = Bearing(work.paper.text).find(number)
    if finding.verdict != "borne" and not work.paper.full_text and (deadline is None or time.monotonic() < deadline):
        work = works.with_text(work)
        finding = Bearing(work.paper.text if work.paper else "").find(number)
    if finding.verdict == "borne":
        return check("number_supported", f"the paper says so: {finding.said}", finding.said)
    if finding.verdict == "other":
        return check("number_not_supported", f"the paper has another number: {finding.said}", finding.said)
    if finding.verdict == "elsewhere":
        return check("not_checkable", f"{number.text} stands in the paper, but it is not sure that it is said of this", finding.said)
    if work.paper is None or not work.paper.full_text:
        return check("not_checkable", f"{number.text} is not in what is known of the paper, and its full text is not here")
    if sentence.is_carried:
        return check("not_checkable", f"{number.text} is not in the paper that was cited before, but its own sentence cites nothing")
    return check("number_not_supported", f"{number.text} does not stand in the paper")


# --- the score --------------------------------------------------------------------------------------------


def _score(checks: Sequence[Check], criterion: Criterion) -> CriterionScore:
    key, weight, (low, high) = criterion.key, criterion.weight, criterion.scale
    evidence = tuple(check.evidence for check in checks)
    if not checks:
        return CriterionScore(key, score=low, weight=weight, rationale="There is no citation in it.")
    counts = Counter(check.status for check in checks)
    good, bad = (sum(counts[status] for status in statuses) for statuses in (GOOD, BAD))
    if not good + bad:
        why = Counter(check.why for check in checks).most_common(1)[0][0]
        rationale = f"None of its {len(checks)} citations and numbers could be checked. Most often: {why}."
        return CriterionScore(key, weight=weight, rationale=rationale, evidence=evidence, unscored_reason="not_checkable")
    score = round(low + (high - low) * good / (good + bad), 2)
    return CriterionScore(key, score=score, weight=weight, rationale=_rationale(counts, checks), evidence=evidence)


def _rationale(counts: Counter[str], checks: Sequence[Check]) -> str:
    """Counts in words, and the worst of what was found."""
    works = f"{counts['found']} of {counts['found'] + counts['not_found']} works that could be looked up exist as cited"
    decided = counts["number_supported"] + counts["number_not_supported"]
    numbers = f"{counts['number_supported']} of {decided} numbers that could be checked stand in the cited paper"
    told = [works, *([numbers] if decided else [])]
    if counts["not_checkable"]:
        n = counts["not_checkable"]
        told.append(f"{n} {'check' if n == 1 else 'checks'} could not be decided and {'does' if n == 1 else 'do'} not count")
    problems = [f"line {check.line_start}: {check.why}" for check in checks if check.status in BAD]
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return ". ".join([*told, *problems[:5]]) + f".{more}"


def _overall(rubric: Rubric, criteria: Sequence[CriterionScore]) -> float | None:
    return weighted_overall(rubric, {criterion.key: criterion.score for criterion in criteria})
