"""Submissions that attack their grading: in a real sandbox, none gets a pass."""

from __future__ import annotations

import functools

import pytest

from graders import registry
from graders.grade import Grade
from tests.graders.checks import program, task
from tests.programs import require_program

FAKE = """
import json, os
verdict = {"says": "yes", "text": "", "lines": [1], "category": ""}
keys = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")
report = {"runs": True, "error": None, "verdicts": {k: verdict for k in keys}, "tampered": [], "trace_error": None, "n_parameters": 1}
"""


@pytest.fixture(autouse=True)
def bwrap():
    require_program("bwrap")


@functools.cache
def graded(source: str, timeout_s: float = 60) -> Grade:
    return registry.get("neural_memory").grade(task(), source, timeout_s=timeout_s, backend="bwrap")


def test_an_honest_program_passes_and_says_how_it_was_run():
    found = graded(program())
    assert found.passed and found.sandbox["backend"] == "bwrap" and found.sandbox["network"] is False
    assert found.peak_memory_mb and found.peak_memory_mb > 100 and found.duration_s > 0


def test_progress_is_told_in_stages():
    stages: list[str] = []
    registry.get("neural_memory").grade(task(), "x = 1", backend="bwrap", on_progress=stages.append)
    assert len(stages) == 3 and all(stages)


ENDINGS = {"at import": "import os; os._exit(0)", "by exit": "raise SystemExit(0)", "by kill": "import os; os.kill(os.getpid(), 9)"}


@pytest.mark.parametrize("code", ENDINGS.values(), ids=ENDINGS)
def test_ending_the_process_early_is_a_crash(code):
    found = graded(code)
    assert (found.runs, found.passed, found.failure_category) == (False, False, "crash")
    assert not any(c.passed for c in found.criteria)


def test_printing_a_fake_verdict_gives_nothing():
    found = graded(FAKE + "print(json.dumps(report), flush=True)\nos._exit(0)")
    assert found.passed is False and not any(c.passed for c in found.criteria)


def test_writing_a_fake_verdict_to_the_channel_is_a_sandbox_error_and_no_pass():
    found = graded(FAKE + "report['nonce'] = '0' * 64\nos.write(3, json.dumps(report).encode())\nos._exit(0)")
    assert (found.runs, found.passed) == (None, None)
    assert {c.unscored_reason for c in found.criteria} == {"sandbox_error"}


def test_writing_to_the_channel_beside_the_probe_gives_nothing():
    found = graded(program() + FAKE + "os.write(3, json.dumps(report).encode())")
    assert {c.unscored_reason for c in found.criteria} == {"sandbox_error"}


def test_a_nonce_taken_from_the_frames_gives_no_pass():
    steal = "import sys\nframe = sys._getframe()\nwhile 'order' not in frame.f_locals: frame = frame.f_back\n"
    steal += "report['nonce'] = frame.f_locals['order']['nonce']\nos.write(3, json.dumps(report).encode())\nos._exit(0)"
    found = graded(FAKE + steal)
    assert found.passed is None and not any(c.passed for c in found.criteria)


def test_a_hung_program_is_a_timeout():
    found = graded("while True: pass", 6)
    assert (found.runs, found.passed, found.failure_category) == (False, False, "timeout")


def test_a_program_that_does_not_parse_does_not_run():
    found = graded("class NeuralMemory(")
    assert found.runs is False and "SyntaxError" in (found.error or "")


def test_patching_the_probe_gives_no_pass():
    patch = "\nimport sys\nfacts = sys.modules['memory_facts']\nfacts.surprise_gate = facts.memory_class\n"
    assert not any(c.passed for c in graded(program(gate="torch.sigmoid(self.net(x[:, t]))") + patch).criteria)


def test_an_empty_file_fails_and_the_missing_class_is_sure():
    found = graded("")
    assert found.passed is False and found.criteria[0].passed is False
