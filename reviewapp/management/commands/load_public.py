"""Load a published study of judges against people from its authors' files."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from reviewapp.interchange.problems import ImportRefused
from reviewapp.interchange.public import STUDIES, load_public


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("study", choices=sorted(STUDIES))
        parser.add_argument("--from", dest="root", metavar="DIR", required=True, help="the study's folder, or one above it")
        parser.add_argument("--dry-run", action="store_true", help="check and count, write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = load_public(options["study"], options["root"], dry_run=options["dry_run"])
        except ImportRefused as refused:
            raise CommandError(refused.as_text()) from refused
        self.stdout.write(report.as_text())
