"""Start the demo: the sample workspace, the web server and a worker, in one foreground process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from graders.sandbox import health
from reviewapp.celery import QUEUES
from reviewapp.models import User
from reviewapp.samples.load import load_samples

DEMO_PASSWORD = "touchstone"  # printed on the sign-in page; the server listens on loopback only
BIN = Path(sys.executable).parent


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError("DEMO is not set: start the demo by `make demo`")
        port = os.environ.get("PORT", "8000")
        self.prepare()
        url = f"http://127.0.0.1:{port}/"
        processes = [self.start("web", web_command(port)), self.start("worker", worker_command())]
        self.stdout.write(f"\nTouchstone: {url}\n  sign in as  reviewer / {DEMO_PASSWORD}   or  admin / {DEMO_PASSWORD}")
        self.stdout.write("  Ctrl-C stops everything\n")
        self.stdout.flush()
        self.wait(processes)

    def prepare(self) -> None:
        """The database, the accounts and the samples. Everything that is there already stays."""
        if not health()["ok"]:
            # Nothing isolates code on this machine. The demo still grades its own samples, and only those.
            os.environ["ALLOW_UNSAFE_SANDBOX"] = "1"
            self.stderr.write("No sandbox here (apt-get install bubblewrap): only the demo's own samples are run, without isolation.")
        call_command("migrate", verbosity=0)
        call_command("sync_tasks", stdout=self.stdout)
        for name, role in (("reviewer", User.Role.REVIEWER), ("admin", User.Role.ADMIN)):
            if not User.objects.filter(username=name).exists():
                is_admin = role == User.Role.ADMIN
                user = User.objects.create_user(name, password=DEMO_PASSWORD, role=role, is_staff=is_admin, is_superuser=is_admin)
                if is_admin:
                    user.show_judges(True)  # the admin's lists show what the reviewer's hide
        self.stdout.write(load_samples())

    def start(self, name: str, command: list[str]) -> tuple[str, subprocess.Popen[bytes]]:
        return name, subprocess.Popen(command, cwd=settings.BASE_DIR)

    def wait(self, processes: list[tuple[str, subprocess.Popen[bytes]]]) -> None:
        """Until Ctrl-C, or until one of them ends; then all end."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            while True:
                for name, process in processes:
                    if process.poll() is not None:
                        raise CommandError(f"the {name} process ended with exit code {process.returncode}; its lines above say why")
                time.sleep(0.5)
        except KeyboardInterrupt:
            pass
        finally:
            for _, process in processes:
                process.terminate()
            for _, process in processes:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()


def web_command(port: str) -> list[str]:
    threads = ["--threads", str(settings.WEB_THREADS)]
    return [str(BIN / "gunicorn"), "reviewapp.wsgi", "--bind", f"127.0.0.1:{port}", *threads, "--log-level", "warning"]


def worker_command() -> list[str]:
    schedule = f"--schedule={settings.DATA_DIR / 'beat'}"
    queues = ",".join(QUEUES)
    options = ["-B", schedule, "-Q", queues, "--loglevel=warning", "--concurrency=2"]
    return [str(BIN / "celery"), "--quiet", "-A", "reviewapp", "worker", *options]
