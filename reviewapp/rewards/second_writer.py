"""A second process that writes the last spans of a large export while the first one writes its first.

The second one (`python -m reviewapp.rewards`) reads lines of JSON: what to write at all, then one span after the other;
for each it answers with a line. It ends when its input does, so it never outlives the export. What it wrote counts only
where it saw what the first process sees (columns, calibrators); whatever it does not do, the first one does itself.
Calibrators are fitted by whoever comes to need one first, and told to the other with the next line.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson
from django.conf import settings
from django.db import connection

from reviewapp.rewards.files import Files
from reviewapp.rewards.formats import Format, format_named
from reviewapp.rewards.rows import Counts, Reader, Span
from reviewapp.rewards.spec import Spec
from reviewapp.rewards.splits import Splitter

# Below so many outputs one process is done before a second one has started.
WORTH_IT, SPAN, IN_FLIGHT = 20_000, 2_000, 2
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Written:
    """A span that is written: a file for each split that has rows in it, and what was counted."""

    files: dict[str, str]
    counts: dict[str, Any]


def worth_it(file_format: Format, total: int) -> bool:
    """Is it a format whose files can be joined, are there many outputs and a second processor?"""
    return file_format.joins and total >= WORTH_IT and len(os.sched_getaffinity(0)) > 1


class SecondWriter:
    """The first process's side of it. `take` gives the next span to write; `written` the spans that the other one wrote."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self._reader = reader
        self._sent: deque[Span] = deque()
        # In the order of the spans: the second process begins with the last.
        self.written: deque[Written] = deque()
        folder.mkdir()
        order = {
            "spec": reader.spec.to_json(),
            "roots": list(reader.splitter.roots.items()),
            "folder": str(folder),
            "database": str(connection.settings_dict["NAME"]),  # a test's is not the one that the settings name
        }
        command = [sys.executable, "-m", "reviewapp.rewards"]
        self._process = subprocess.Popen(command, cwd=settings.BASE_DIR, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._left: deque[Span] = deque()
        self._heard = b""
        self._is_ready = self._is_over = False
        self._tell(order)

    def __enter__(self) -> SecondWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    @property
    def outputs(self) -> int:
        return sum(written.counts["outputs"] for written in self.written)

    def spans(self) -> Iterator[Span]:
        """The spans for this process to write, in order; each time the other one is given some too. Ends when all are written."""
        self._left.extend(self._reader.spans(SPAN))
        self._fit_while_it_starts()
        while True:
            self._listen(wait=False)
            if self._left:
                yield self._left.popleft()
            elif self._sent:
                self._listen(wait=True)
            else:
                return

    def _fit_while_it_starts(self) -> None:
        """The calibrators of the last tasks, with which the other process begins."""
        for _ in self._reader.fit_ahead():
            self._listen(wait=False)
            if self._is_ready or self._is_over:
                return

    def _listen(self, *, wait: bool) -> None:
        """Take the answers that are there, and send what is next."""
        if not self._is_over and select.select([self._process.stdout], [], [], PATIENCE_S if wait else 0)[0]:
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            *lines, self._heard = (self._heard + data).split(b"\n")
            if not data or not all(self._takes(orjson.loads(line)) for line in lines):
                self._give_up()
        elif wait:
            self._give_up()
        while self._is_ready and not self._is_over and self._left and len(self._sent) < IN_FLIGHT:
            self._sent.append(self._left.pop())
            fits = self._reader.calibration.known() if self._reader.calibration else []
            self._tell({"span": list(self._sent[-1]), "fits": fits})

    def _takes(self, told: dict[str, Any]) -> bool:
        """Is it an answer by someone who sees what this process sees?"""
        if not self._is_ready:
            self._is_ready = list(told["criteria"].items()) == list(self._reader.table.criteria.items())
            return self._is_ready
        if self._reader.calibration and not self._reader.calibration.takes_over(told["fits"]):
            return False
        self._sent.popleft()
        self.written.appendleft(Written(told["files"], told["counts"]))
        return True

    def _give_up(self) -> None:
        """The other process ended, hangs or saw something else: what it has not written is for this one."""
        self._is_over = True
        self._process.kill()
        while self._sent:
            self._left.append(self._sent.pop())

    def _tell(self, what: Any) -> None:
        try:
            self._process.stdin.write(orjson.dumps(what) + b"\n")
        except BrokenPipeError:
            self._give_up()


def write_spans(orders: BinaryIO, answers: BinaryIO) -> None:
    """The second process's side."""
    order = orjson.loads(orders.readline())
    connection.settings_dict["NAME"] = order["database"]
    spec = Spec.from_json(order["spec"])
    reader = Reader(spec)
    reader.splitter = Splitter(spec.shares, spec.seed, dict(order["roots"]))
    file_format, folder = format_named(spec.format), Path(order["folder"])

    def answer(told: dict[str, Any]) -> None:
        answers.write(orjson.dumps(told) + b"\n")
        answers.flush()

    answer({"criteria": reader.table.criteria})
    for number, line in enumerate(orders):
        wanted = orjson.loads(line)
        if reader.calibration:
            reader.calibration.learn(wanted["fits"])
        reader.counts = Counts()
        with Files(file_format, folder, reader, prefix=f"{number}-") as files:
            for chunk in reader.chunks(Span(*wanted["span"])):
                files.write(chunk)
        names = {split: str(path) for split, path in files.paths.items()}
        fits = reader.calibration.used() if reader.calibration else []
        answer({"files": names, "counts": reader.counts.to_json(), "fits": fits})
