"""What programs of neural_memory do beside their tensors: threads, pools, event loops, limits, names by globals()."""

from __future__ import annotations

import pytest

from graders.code.probes import seal
from graders.code.source import doubts, read_source
from tests.graders.checks import check_fails, grade, program
from tests.graders.test_attacks import graded, judged, probed
from tests.programs import require_program

POOL = "from concurrent.futures import ThreadPoolExecutor\n"
IN_A_POOL = {"init": "self.pool = ThreadPoolExecutor(2)", "gate": "self.pool.submit(lambda: torch.sigmoid({})).result()"}
HONEST = """
import asyncio, resource, threading, concurrent.futures
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
POOL = concurrent.futures.ThreadPoolExecutor(2)
CONFIG = {name: globals()[name] for name in list(globals()) if isinstance(globals()[name], int)}
for number in range(2):
    globals()[f"SIZE_{number}"] = number
assert SIZE_1 == 1 and "hard" in CONFIG and "torch" in globals()
BOX, LOOP = [], asyncio.new_event_loop()
worker = threading.Thread(target=lambda: BOX.append(POOL.submit(torch.zeros, 1).result()))
worker.start()
worker.join()
asyncio.run(asyncio.sleep(0))
try:
    from tqdm import tqdm
except ImportError:
    tqdm = list
list(tqdm(range(2)))
async def read(memory, x):
    found, _ = await asyncio.gather(asyncio.to_thread(memory, x), asyncio.sleep(0))
    return found + BOX[0]
"""


@pytest.fixture
def bwrap():
    require_program("bwrap")


def honest() -> str:
    peak = "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    source = program(memory="LOOP.run_until_complete(read(self.mem, h))", before=peak)
    return source.replace("self.mem = NeuralMemory(d)", "self.mem = globals()['NeuralMemory'](d)") + HONEST


def test_a_right_program_passes_with_threads_pools_an_event_loop_limits_and_globals(bwrap):
    assert probed(honest()).doubts == () and doubts(read_source(honest()), heard=True) == []
    found = judged(honest())
    assert found.passed and {c.key: c.rationale for c in found.criteria if c.passed is not True} == {}


def test_what_a_pool_computes_is_judged_as_what_the_program_computes_itself():
    gate = IN_A_POOL["gate"]
    wrong = program(init=IN_A_POOL["init"], gate=gate.format("self.net(x[:, t])"))
    check_fails(POOL + wrong, "surprise_gate", because="sees the input alone")


def test_a_thread_that_is_still_at_work_after_the_answer_gets_no_pass_and_its_line_is_told(bwrap):
    late = "\nimport time\ndef late(wait=time.sleep):\n    wait(50)\nThreadPoolExecutor(1).submit(late)\ntime.sleep = print\n"
    found = graded(POOL + program() + late)
    assert found.passed is None
    line = (POOL + program() + late).splitlines().index("    wait(50)") + 1
    assert f"line {line} uses time after an answer is given" in found.criteria[0].rationale


BY_OTHERS = """
import asyncio, gc, threading
def unused(globals): return globals
ThreadPoolExecutor(1).submit(open, "/proc/self/mem", "rb").result()
thread = threading.Thread(target=gc.get_objects)
thread.start()
thread.join()
async def later():
    asyncio.get_running_loop().call_soon(open, "/proc/self/maps")
    await asyncio.sleep(0)
    return asyncio.current_task().get_stack()
asyncio.run(later())
globals().pop("get" + "attr")
getter = globals()["o" + "s"]
"""


def test_a_step_towards_the_probe_is_told_when_a_thread_a_loop_or_a_name_takes_it(bwrap):
    told = " ".join(probed(POOL + program() + "\nimport os" + BY_OTHERS).doubts)
    steps = ("a thread uses open", "a thread uses gc.get_objects", "object.__getattr__ cr_frame", "globals()['getattr']", "globals()['os']")
    assert [step for step in steps if step not in told] == [] and told.count("uses open") == 2
    assert judged(POOL + program() + "\nimport os" + BY_OTHERS).passed is not True


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("names = globals()", 1),
        ("type(globals())", 1),
        ("def f():\n    global getattr\n    del getattr", 3),
        ("try: 1 / 0\nexcept Exception as getattr: pass", 2),
        ("import resource\n\ntype(resource.getrlimit)", 3),
        ("import threading\n\nthreading.Timer(9, print)", 3),
        ("import asyncio\n\nclass Loop(asyncio.SelectorEventLoop): pass", 3),
    ],
)
def test_what_would_get_around_the_watch_is_found_in_the_text_on_its_own_line(step, line):
    assert [d.line for d in doubts(read_source(step), heard=True)][:1] == [line]


def test_an_undecided_program_is_told_which_line_does_it_and_what_to_change():
    found = grade("import socket\n" + program())
    assert found.passed is None
    assert "line 1 uses import socket" in found.criteria[0].rationale and "take it out" in found.criteria[0].rationale


HANDED_ON = """
open(S("/proc/self/mem"), "r+b", 0)
open(I(3), "wb", 0, closefd=False)
torch.utils.checkpoint.checkpoint(open, "/proc/self/mem", "r+b", 0, use_reentrant=False)
nn.Linear(1, 1).apply(partial(next, map(open, ["/proc/self/maps"])))
getattr(A(), "x")
K() in globals()
torch.utils.checkpoint.checkpoint(sys._getframe, 0, use_reentrant=False)
n.load("steps.npy", allow_pickle=True)
""".splitlines()[1:]
KINDS = """
import pathlib, sys, numpy as n
from functools import partial
class S(str): __slots__ = ()
class I(int): __gt__ = lambda self, other: False
class A: x = property(partial(next, map(open, ["/proc/self/maps"])))
class K: __hash__ = partial(next, map(open, ["/proc/self/maps"]))
pathlib.Path("steps.npy").write_bytes(b"\\x80\\x04csys\\n_get" + b"frame\\n(tR.")
"""


def test_a_step_that_a_library_the_probe_or_a_path_of_another_class_takes_is_told_on_the_line_that_hands_it_on(bwrap):
    tried = "".join(f"try: {step}\nexcept Exception: pass\n" for step in HANDED_ON)
    source = program() + KINDS + tried
    told = probed(source).doubts
    steps = {number: line for number, line in enumerate(source.splitlines(), 1) if line.startswith("try: ") and line[5:] in HANDED_ON}
    assert [line for number, line in steps.items() if not any(d.startswith(f"line {number} ") for d in told)] == []
    assert len(steps) == len(HANDED_ON)


def test_a_step_of_a_function_that_was_left_behind_is_told_though_no_line_of_the_program_is_at_work(bwrap):
    files = "from functools import partial\nclass B(bytes): pass\nfiles = map(open, [B(b'/proc/self/maps')])\n"
    left = f"\n{files}MemoryTransformer.forward = partial(next, files)\n"
    assert "a function that it left behind uses open" in probed(program() + left).doubts


def test_what_leads_nowhere_is_not_told(bwrap):
    plain = (
        "\nimport threading, numpy as n\nopen('/proc/cpuinfo').read() + open('/proc/self/status').read()\n"
        "n.save('x.npy', n.array([n.ones(2), n.float32(1)], dtype=object))\nn.load('x.npy', allow_pickle=True)\n"
        "threading.stack_size(1 << 50)\ntry: threading.Thread(target=print).start()\nexcept RuntimeError: print('none', flush=True)\n"
    )
    answer = probed(program() + plain)
    assert answer.doubts == () and "none" in answer.result.stdout


@pytest.mark.parametrize(
    "late",
    [
        "ThreadPoolExecutor(1, initializer=time.sleep, initargs=(50,)).submit(print)",
        "POOL.submit(print)\nPOOL._work_queue.put(types.SimpleNamespace(run=functools.partial(time.sleep, 50)))",
    ],
)
def test_a_pools_thread_that_runs_no_code_of_python_is_at_work(late, bwrap):
    source = POOL + program() + f"\nimport functools, time, types\nPOOL = ThreadPoolExecutor(1)\n{late}\n"
    assert "a thread uses time after an answer is given" in " ".join(probed(source).doubts)


def test_a_copy_of_the_probes_code_is_not_the_probes():
    theirs = test_a_copy_of_the_probes_code_is_not_the_probes.__code__
    copy = theirs.replace()
    assert copy == theirs and seal._is_one_of(theirs, [theirs]) and not seal._is_one_of(copy, [theirs])


def test_a_pool_whose_queue_is_the_programs_own_is_at_work_while_it_waits(bwrap):
    late = (
        "\nimport functools, itertools, time, types\nLATE = []\nslow = itertools.chain(map(time.sleep, [50]), map(LATE.append, [1]))\n"
        "pool = ThreadPoolExecutor(1)\nget = functools.partial(dict, zip(slow, slow))  # no code of Python's\n"
        "pool._work_queue = types.SimpleNamespace(put=print, get_nowait=print, get=get)\npool.submit(print)\n"
    )
    assert "a thread uses time after an answer is given" in graded(POOL + program() + late).criteria[0].rationale
