"""Fill the local corpus of papers, which the literature tools search and the citations grader looks things up in.

Doing it again changes nothing. Exit 0: all was read. 2: bad usage, or a file that can't be read at all. 3: some papers could not
be read, or arXiv could not be asked; the others are in the corpus.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tasks.tools.config import Sources, read_sources
from tasks.tools.errors import ServiceError
from tasks.tools.fill import FillError, Report, fill_from_arxiv, fill_from_folder, fill_from_jsonl
from tasks.tools.literature import Literature

LINE_S = 2.0


class Command(BaseCommand):
    help = __doc__
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--arxiv", metavar="QUERY", help="papers that arXiv finds, with their texts")
        what.add_argument("--folder", metavar="DIR", type=Path, help="PDF, LaTeX (.tex, .tar.gz) and HTML files")
        what.add_argument("--jsonl", metavar="FILE", type=Path, help="one paper a line")
        parser.add_argument("--max", type=int, default=50, metavar="N", help="with --arxiv: at most so many papers (default: %(default)s)")
        parser.add_argument("--no-text", action="store_true", help="with --arxiv: titles and abstracts only")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["max"] <= 2000:
            raise CommandError(f"max is {options['max']}, allowed: 1 to 2000", returncode=2)
        try:
            literature = Literature(read_sources())
            report = self.fill(literature, options)
        except (FillError, ValueError) as error:
            raise CommandError(str(error), returncode=2) from error
        except ServiceError as error:
            raise CommandError(str(error), returncode=3) from error
        self.tell(literature.sources, report, literature.corpus.count(), options["json"])
        if report.failed:
            sys.exit(3)

    def fill(self, literature: Literature, options: dict[str, Any]) -> Report:
        say = ProgressLine(self.stderr)
        try:
            if options["jsonl"]:
                return fill_from_jsonl(literature.corpus, options["jsonl"], say)
            if options["folder"]:
                return fill_from_folder(literature.corpus, options["folder"], say)
            if not literature.sources.has_network:
                raise ServiceError("arXiv can't be asked: LITERATURE_NETWORK is off")
            return fill_from_arxiv(literature, options["arxiv"], options["max"], with_text=not options["no_text"], say=say)
        finally:
            say.end()

    def tell(self, sources: Sources, report: Report, total: int, is_json: bool) -> None:
        failed = [{"what": what, "reason": reason} for what, reason in report.failed]
        facts = {"seen": report.seen, "changed": report.changed, "missing": report.missing, "failed": failed}
        if is_json:
            self.stdout.write(json.dumps({**facts, "papers": total, "corpus": str(sources.corpus)}, ensure_ascii=False))
            return
        lines = [f"{report.seen} read, {report.changed} new or changed, {len(failed)} failed; {total} papers in {sources.corpus}"]
        self.stdout.write("\n".join([*lines, *(f"  {what}: {reason}" for what, reason in report.failed)]))


class ProgressLine:
    """How far it is, on stderr: one line that changes in a terminal, else a line every now and then."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.is_terminal = stream, stream.isatty()
        self.said_at = 0.0

    def __call__(self, done: int, total: int, text: str) -> None:
        if not self.is_terminal and done < total and time.monotonic() - self.said_at < LINE_S:
            return
        line = f"{done} of {total} {text}"[:78]
        self.stream.write(f"\r{line:<78}" if self.is_terminal else line, ending="" if self.is_terminal else "\n")
        self.said_at = time.monotonic()

    def end(self) -> None:
        if self.is_terminal and self.said_at:
            self.stream.write("")
