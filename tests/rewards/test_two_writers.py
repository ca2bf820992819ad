"""A large export is written by two processes, and nobody can tell from its files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reviewapp.models import Grader
from reviewapp.rewards.calibration import Calibration
from reviewapp.rewards.export import write_export
from reviewapp.rewards.labels import Label
from reviewapp.rewards.spec import Spec
from tests.jobs.workers import database_url
from tests.make import at_once, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.rewards.reading import make_prompt

OUTPUTS = 120


@pytest.fixture
@at_once
def study(transactional_db, monkeypatch):
    """Outputs of two tasks, some by one prompt, some without a label, enough with both for a calibrator.

    Every export is a large one, in spans of five.
    """
    monkeypatch.setattr("reviewapp.rewards.second_writer.SPAN", 5)
    monkeypatch.setattr("reviewapp.rewards.second_writer.WORTH_IT", 0)
    monkeypatch.setenv("DATABASE_URL", database_url())
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.settings")
    reviewer = make_user()
    for slug in ("ideas", "plans"):
        task = make_task(slug)
        prompts = [make_prompt(task, f"{slug} {n}") for n in range(OUTPUTS // 4)]
        for n in range(OUTPUTS // 2):
            output = make_output(task, f'Text {n} of {slug}, "quoted"\nand long enough to be one that is shared.', prompt=prompts[n // 2])
            if n % 5:
                make_judge_grade(output, {"viability": n % 10})
            if n % 2 == 0:
                make_human_grade(output, reviewer, {"viability": (n + 1) % 10})


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def by_one(spec: Spec, folder: Path, monkeypatch) -> dict[str, bytes]:
    with monkeypatch.context() as patch:
        patch.setattr("reviewapp.rewards.second_writer.WORTH_IT", 10**9)
        write_export(spec, folder)
    return files_of(folder)


class Waiting:
    """Progress of an export in `folder` that gives the second process the time to write something."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.told = folder, set(), []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.told.append((stage, done))
        until = time.monotonic() + 1
        while not self.seen and time.monotonic() < until:
            self.seen |= {path.name for path in self.folder.parent.glob(".*.part/second/*")}
            time.sleep(0.02)


@pytest.mark.parametrize(("file_format", "split"), [("scalar-jsonl", "0.6,0.2,0.2"), ("csv", "1")])
def test_two_processes_write_the_bytes_that_one_writes(study, tmp_path, monkeypatch, file_format, split):
    spec = Spec(format=file_format, split=split)
    waiting = Waiting(tmp_path / "two")
    write_export(spec, tmp_path / "two", waiting)
    assert waiting.seen, "the second process wrote nothing"
    assert files_of(tmp_path / "two") == by_one(spec, tmp_path / "one", monkeypatch)
    assert [c["task"] for c in json.loads((tmp_path / "two" / "manifest.json").read_text())["calibrator"]] == ["ideas", "plans"]
    done = [done for stage, done in waiting.told if stage == "writing rows"]
    assert done == sorted(done) and done[-1] <= OUTPUTS


def test_where_the_second_process_ends_at_once_the_first_one_writes_all(study, tmp_path, monkeypatch):
    spec = Spec()
    whole = by_one(spec, tmp_path / "one", monkeypatch)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    write_export(spec, tmp_path / "two")
    assert files_of(tmp_path / "two") == whole


def test_a_second_process_that_hangs_is_not_waited_for(study, tmp_path, monkeypatch):
    spec = Spec()
    whole = by_one(spec, tmp_path / "one", monkeypatch)
    columns = json.dumps({"criteria": dict.fromkeys(("viability", "upside", "success", "novelty"), True)})
    hanging = tmp_path / "hang"
    hanging.write_text(f"#!/bin/sh\necho '{columns}'\nsleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr("reviewapp.rewards.second_writer.PATIENCE_S", 0.5)
    write_export(spec, tmp_path / "two", lambda *told: time.sleep(0.02))
    assert files_of(tmp_path / "two") == whole


def test_an_export_that_is_stopped_takes_its_second_process_along(study, tmp_path):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        raise Stopped

    with pytest.raises(Stopped):
        write_export(Spec(), tmp_path / "out", stop)
    running = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "reviewapp.rewards"], capture_output=True, text=True, check=False
    ).stdout
    assert not running and list(tmp_path.iterdir()) == []


def test_what_the_second_process_wrote_by_another_calibrator_does_not_count(study):
    graders = {grader.pk: (grader.name, grader.version, grader.kind) for grader in Grader.objects.filter(kind="llm_judge")}
    (grader_id,) = graders
    mine, theirs = Calibration(graders), Calibration(graders)
    for calibration in (mine, theirs):
        calibration.fit_ahead("ideas", grader_id)
        calibration.label(Label(score=6.0, source="judge"), "ideas", grader_id)
    assert mine.takes_over(theirs.used())
    ((*names, _, why),) = theirs.used()
    assert not mine.takes_over([(*names, "another hash", why)])
    assert not Calibration(graders).takes_over([(*names, "another hash", why)])


def test_a_calibrator_that_the_other_process_used_is_taken_over_as_used(study):
    graders = {grader.pk: (grader.name, grader.version, grader.kind) for grader in Grader.objects.filter(kind="llm_judge")}
    (grader_id,) = graders
    mine, theirs = Calibration(graders), Calibration(graders)
    theirs.label(Label(score=6.0, source="judge"), "ideas", grader_id)
    assert mine.to_json() == []
    assert mine.takes_over(theirs.used())
    assert mine.to_json() == theirs.to_json() != []
    mine.fit_ahead("plans", grader_id)  # known, and not used
    assert len(mine.to_json()) == 1
    theirs.learn(mine.known())
    assert len(theirs.to_json()) == 1
