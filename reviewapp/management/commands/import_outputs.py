"""Import outputs and their grades from a JSONL file, all or nothing."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from reviewapp.interchange.importer import import_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.outputs.search import index_new


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE.jsonl", help="one output a line; docs/import.md has the fields")
        parser.add_argument("--rubric", metavar="RUBRIC.toml", help="defines the task of the lines, or a new version of its rubric")
        parser.add_argument("--dry-run", action="store_true", help="check and count, write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = import_file(options["file"], options["rubric"], dry_run=options["dry_run"], on_progress=self._progress)
        except ImportRefused as refused:
            raise CommandError(refused.as_text()) from refused
        finally:
            self._end_progress()
        self.stdout.write(report.as_text())
        index_new()  # a worker does it too, but there may be none

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{stage}: {done / max(total, 1):4.0%}", ending="")

    def _end_progress(self) -> None:
        if self.stderr.isatty():
            self.stderr.write("\r" + " " * 20 + "\r", ending="")
