"""Bring the task folders into the database: new content becomes a new version, history stays."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from reviewapp.catalog.sync import sync_tasks
from tasks.task import TaskError


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = sync_tasks()
        except TaskError as error:
            raise CommandError(str(error)) from error
        for line in report.lines or ["nothing new"]:
            self.stdout.write(line)
