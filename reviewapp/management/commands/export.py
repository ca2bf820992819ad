"""Write labelled outputs to a folder: data files, a dataset card, a manifest.

Exit code 0: written. 2: the command asks for something that can't be. 3: no output has a label, nothing is written.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, BooleanOptionalAction
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from reviewapp.rewards.export import ExportError, NothingToWriteError, write_export
from reviewapp.rewards.formats import FORMATS
from reviewapp.rewards.labels import DEFAULT_POLICY, POLICIES
from reviewapp.rewards.spec import DEFAULT_SPLIT, Spec, SpecError


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", required=True, help=f"one of: {', '.join(FORMATS)}")
        parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, not there yet or empty")
        parser.add_argument("--task", action="append", default=[], metavar="SLUG", help="only this task; may be given several times")
        parser.add_argument(
            "--policy", default=DEFAULT_POLICY, help=f"which label wins, one of: {', '.join(POLICIES)} (default {DEFAULT_POLICY})"
        )
        parser.add_argument(
            "--split", default=DEFAULT_SPLIT, metavar="A,B,C", help="shares of train, validation, test; default all in train"
        )
        parser.add_argument("--seed", type=int, default=0, help="another seed is another split")
        parser.add_argument(
            "--filter", default="", metavar="QUERY", help="filters as in the address of the outputs page: 'model=m&label=labelled'"
        )
        parser.add_argument("--license", default="unknown", help="license to state on the dataset card")
        parser.add_argument(
            "--samples",
            "--include-samples",
            dest="samples",
            action=BooleanOptionalAction,
            default=True,
            help="with outputs written for the demo",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            spec = Spec(
                format=options["format"],
                tasks=tuple(dict.fromkeys(options["task"])),
                policy=options["policy"],
                split=options["split"],
                seed=options["seed"],
                filter=options["filter"],
                include_samples=options["samples"],
                license=options["license"],
            )
            manifest = write_export(spec, options["out"], self.show_progress)
        except NothingToWriteError as error:
            raise CommandError(str(error), returncode=3) from error
        except (SpecError, ExportError) as error:
            raise CommandError(str(error), returncode=2) from error
        for warning in manifest["warnings"]:
            self.stderr.write(f"Note: {warning}")
        sources = ", ".join(f"{n:,} {source}" for source, n in manifest["counts"]["source"].items())
        self.stdout.write(f"{manifest['rows']:,} rows ({sources}) in {options['out']}")

    def show_progress(self, stage: str, done: int, total: int) -> None:
        is_terminal = sys.stderr.isatty()
        if is_terminal or done == total:
            self.stderr.write(f"{stage}: {done:,} of {total:,} outputs", ending="\r" if is_terminal and done < total else "\n")
