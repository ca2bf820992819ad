"""Submissions that attack their grading: in a real sandbox, none gets a pass."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from graders import registry
from graders.code.channel import Answer
from graders.code.neural_memory import NeuralMemoryGrader, ask, check_report
from graders.code.source import doubts, read_source
from graders.grade import Grade
from tests.graders.checks import program, task
from tests.programs import require_program

FAKE = """
import json, os
verdict = {"says": "yes", "text": "", "lines": [1], "category": ""}
keys = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")
report = {"runs": True, "error": None, "verdicts": {k: verdict for k in keys}, "tampered": [], "trace_error": None, "n_parameters": 1}
report.update(replaced=[], course={})
"""


def test_the_fake_report_of_these_attacks_would_be_a_pass():
    names: dict[str, Any] = {}
    exec(FAKE, names)
    assert check_report(names["report"]) == ""
    answer = Answer(probed("").result, names["report"])
    assert NeuralMemoryGrader()._grade_of(task(), read_source(program()), answer).passed


@pytest.fixture(autouse=True)
def bwrap():
    require_program("bwrap")


@functools.cache
def graded(source: str, timeout_s: float = 60) -> Grade:
    return registry.get("neural_memory").grade(task(), source, timeout_s=timeout_s, backend="bwrap")


@functools.cache
def probed(source: str) -> Answer:
    """What came over the channel, before the text of the program is looked at."""
    return ask(read_source(source), 30, "bwrap")


def judged(source: str) -> Grade:
    """The grade that follows from it."""
    return NeuralMemoryGrader()._grade_of(task(), read_source(source), probed(source))


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


def test_writing_a_fake_verdict_to_the_channel_is_a_failure_and_told():
    found = graded(FAKE + "report['nonce'] = '0' * 64\nos.write(3, json.dumps(report).encode())\nos._exit(0)")
    assert (found.runs, found.passed, found.failure_category) == (False, False, "forged_report")
    assert not any(c.passed for c in found.criteria) and "result channel" in (found.error or "")


def test_writing_to_the_channel_beside_the_probe_gives_nothing():
    found = graded(program() + FAKE + "os.write(3, json.dumps(report).encode())")
    assert found.passed is False and found.failure_category == "forged_report" and not any(c.passed for c in found.criteria)


FIND_NONCE = """
def hunt(x, depth=0):
    if isinstance(x, str) and len(x) == 64 and all(c in '0123456789abcdef' for c in x): return x
    if depth > 3: return None
    if isinstance(x, dict): parts = list(x.values())
    elif isinstance(x, (list, tuple)): parts = list(x)
    else: parts = [c.cell_contents for c in (getattr(x, '__closure__', None) or ())]
    return next((found for part in parts if (found := hunt(part, depth + 1))), None)
def forge(nonce):
    report['nonce'] = nonce or '0' * 64
    os.write(3, json.dumps(report).encode())
    import posix  # the probe sees to os._exit
    posix._exit(0)
"""
STEALING = {
    "frames": "import sys\nframe = sys._getframe()\nwhile frame and not (n := hunt(frame.f_locals)): frame = frame.f_back\nforge(n)",
    "a traceback": (
        "try: 1 / 0\nexcept Exception as e: frame = e.__traceback__.tb_frame\n"
        "while frame and not (n := hunt(frame.f_locals)): frame = frame.f_back\nforge(n)"
    ),
    "frames by the library": (
        "import inspect\nn = next((f for i in inspect.stack() if (f := hunt(i.frame.f_locals))), None)\nforge(n)"
    ),
    "the heap": "import gc\nn = next((f for x in gc.get_objects() if (f := hunt(x))), None)\nforge(n)",
    "what the heap refers to": "import gc, os\nn = hunt([hunt(x) for x in gc.get_referrers(os.write)])\nforge(n)",
    "every thread's frames": "import sys\nn = hunt([f.f_back.f_locals for f in sys._current_frames().values() if f.f_back])\nforge(n)",
    "computed names": (
        "import sys\nframe = getattr(sys, '_get' + 'frame')()\n"
        "while frame and not (n := hunt(getattr(frame, 'f_lo' + 'cals'))): frame = getattr(frame, 'f_' + 'back')\nforge(n)"
    ),
    "the probe's module": "import sys\nmain = sys.modules.get('__main__')\nforge(hunt(vars(main)))",
    "the order again": "import os\nos.lseek(0, 0, 0) if os.path.exists('/x') else None\nforge(hunt(json.loads(os.read(0, 9999) or b'{}')))",
    "raw memory": (
        "import ctypes, re\ndata = b''.join(ctypes.string_at(int(a, 16), int(b, 16) - int(a, 16)) for a, b in"
        " re.findall('([0-9a-f]+)-([0-9a-f]+) rw', open('/proc/self/maps').read()) if int(b, 16) - int(a, 16) < 1 << 21)\n"
        "n = re.findall(b'(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])', data)\nforge(n[0].decode() if n else None)"
    ),
    "its own memory file": "m = open('/proc/self/mem', 'rb')\nforge(None)",
    "another channel in its place": (
        "import os\nr, w = os.pipe()\nkeep = os.dup(3)\nos.dup2(w, 3)\nimport sys\nsys._getframe()\nos.dup2(keep, 3)\nforge(None)"
    ),
}  # fmt: skip


UNHEARD = ("the probe's module", "the order again")  # no audit event: there is nothing to find


@pytest.mark.parametrize("steal", STEALING.values(), ids=STEALING)
def test_a_nonce_is_not_had_from(steal):
    found = judged(FAKE + FIND_NONCE + steal)
    assert found.passed is not True and not any(c.passed for c in found.criteria)


@pytest.mark.parametrize("way", [name for name in STEALING if name not in UNHEARD])
def test_a_step_towards_the_nonce_is_told_before_it_is_taken(way):
    answer = probed(FAKE + FIND_NONCE + STEALING[way])
    assert answer.doubts or answer.facts is None


WRONG_GATE = "torch.sigmoid(self.net(x[:, t]))"
TAMPERING = {
    "patched dispatch mode": "import torch.utils._python_dispatch as d\nd.TorchDispatchMode.__torch_dispatch__ = None",
    "patched rules of the probe": (
        "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'surprise_gate'): m.surprise_gate = m.memory_class"
    ),
    "rules found by class": (
        "for c in object.__subclasses__():\n    g = getattr(c.__init__, '__globals__', {})\n"
        "    if 'surprise_gate' in g: g['surprise_gate'] = None"
    ),
    "rules found by computed names": (
        "for c in getattr(object, '__subcl' + 'asses__')():\n    g = getattr(c.__init__, '__glob' + 'als__', {})\n"
        "    if 'dumps' in g: g['dumps'] = lambda x: json"
    ),
    "a line tracer": "import sys\nsys.settrace(lambda *a: None)",
    "a profiler": "import sys\nsys.setprofile(lambda *a: None)",
    "a hook at exit": "import atexit, os\natexit.register(lambda: os.write(3, b'{}'))",
    "a thread that writes": "import threading, os\nthreading.Timer(0.01, lambda: os.write(3, b'{}')).start()\nimport time\ntime.sleep(0.1)",
    "a fork that reports": "import os\nif os.fork() == 0: os.write(3, b'{}'); os._exit(0)\nos.wait()",
    "other code under its name": "def f(): pass\nf.__code__ = f.__code__.replace(co_filename='/usr/lib/python3.11/typing.py')\nf()",
    "arrays over all memory": "import numpy as np\nx = np.lib.stride_tricks.as_strided(np.zeros(1), (8,))",
    "a result by finalizer": "class D:\n    def __del__(self): import os; os.write(3, b'{}')\nd = D(); del d",
}  # fmt: skip


@pytest.mark.parametrize("patch", TAMPERING.values(), ids=TAMPERING)
def test_no_pass_comes_of(patch):
    """Of the program and of what is wrong in it; a criterion that it meets for itself may be told."""
    found = graded(program(gate=WRONG_GATE) + "\n" + patch)
    assert found.passed is not True
    assert {c.key: c.passed for c in found.criteria}["surprise_gate"] is not True


def test_a_program_that_replaces_what_torch_does_never_passes_but_is_seen_through():
    """What it runs is recorded all the same, so the criteria that it meets are its own; all six it never has."""
    patch = "\ntorch.sigmoid = lambda x: torch.special.expit(x)"
    assert graded(program() + patch).passed is not True
    rows = {c.key: c.passed for c in graded(program(gate=WRONG_GATE) + patch).criteria}
    assert rows["surprise_gate"] is False and rows["outer_product"] is True


UNHEARD_STEPS = {
    "a tensor that answers for itself": "class T(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, *a, **k): return a",
    "an array over all memory": "import argparse\nargparse.Namespace(**{'__array_' + 'interface__': {'data': (0, False)}})",
    "code in a field's name": "from dataclasses import dataclass\n@dataclass\nclass C:\n    __annotations__ = {'x=print()': int}",
    "code in a type's name": "C = type('C', (), {'__anno' + 'tations__': {}})",
    "a module through another": "import logging\nlogging.sys.modules.clear",
    "a private module": "import random\nrandom._os",
    "another word for getattr": "from operator import attrgetter",
    "getattr by the library": "import functools\nfunctools.update_wrapper(print, print, assigned=['__glob' + 'als__'])",
    "getattr as a value": "list(map(getattr, [1], ['real']))",
    "a pattern": "match torch:\n    case object(__dict__=d): pass",
    "a format": "'{0.__init__}'.format(nn.Module)",
    "a computed format": "f = '{0._' + '_init__}'\nf.format(nn.Module)",
    "reduction": "class R:\n    def __reduce__(self): return print, ()",
    "modules by from": "from logging import sys",
}  # fmt: skip


@pytest.mark.parametrize("step", UNHEARD_STEPS.values(), ids=UNHEARD_STEPS)
def test_a_step_that_raises_no_event_is_found_in_the_text(step):
    assert doubts(read_source(step))


def test_names_that_a_module_numbers_for_itself_are_no_doubt():
    fine = "class M(nn.Module):\n    def __init__(self):\n        for i in range(3): setattr(self, f'head{i}', getattr(self, 'w%d' % i))\n"
    assert doubts(read_source(fine)) == [] and doubts(read_source(fine.replace("head{i}", "{i}")))


def test_what_honest_programs_do_raises_no_doubt():
    plain = (
        "\nfrom collections import namedtuple\nfrom dataclasses import dataclass\nfrom enum import Enum\nfrom typing import NamedTuple\n"
        "import warnings, logging, copy, functools\nT = namedtuple('T', 'a b')\nclass N(NamedTuple):\n    a: int\n    b: int\n"
        "@dataclass\nclass Config:\n    d: int = 32\nclass E(Enum):\n    A = 1\nwarnings.warn('w')\nlogging.getLogger('x').warning('y')\n"
        "copy.deepcopy(nn.Linear(2, 2))\n@functools.lru_cache\ndef f(): return 1\nf()\n"
    )
    assert probed(program() + plain).doubts == () and judged(program() + plain).passed


def test_a_hung_program_is_a_timeout():
    found = graded("import time\nwhile True: time.sleep(1)", 3)
    assert (found.runs, found.passed, found.failure_category) == (False, False, "timeout")


def test_a_program_that_does_not_parse_does_not_run():
    found = graded("class NeuralMemory(")
    assert found.runs is False and "SyntaxError" in (found.error or "")


@pytest.mark.parametrize(
    "patch",
    [
        "facts.surprise_gate = facts.memory_class",
        "for name, what in list(vars(facts).items()):\n    if callable(what): setattr(facts, name, facts.memory_class)",
    ],
)
def test_patching_the_probe_changes_nothing(patch):
    """The probe's rules are put back before it judges: what the program computes is told, and it does not pass."""
    gate_of_input_alone = program(gate="torch.sigmoid(self.net(x[:, t]))")
    found = graded(f"{gate_of_input_alone}\nimport sys\nfacts = sys.modules['memory_facts']\n{patch}\n")
    assert not found.passed
    assert [c.key for c in found.criteria if not c.passed] == ["surprise_gate"]


def test_an_empty_file_fails_and_the_missing_class_is_sure():
    found = graded("")
    assert found.passed is False and found.criteria[0].passed is False
