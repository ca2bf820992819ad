"""The warm start: runs forked from one parent with torch imported are as apart from each other as cold ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graders import sandbox
from graders.sandbox import Limits, Result, warm
from tests.programs import require_program

REPO = Path(__file__).resolve().parents[2]
QUICK = Limits(wall_s=10, disk_mb=16)


@pytest.fixture(autouse=True)
def bwrap():
    require_program("bwrap")


def run(code: str, *, backend: str = "bwrap", **rest: object) -> Result:
    return sandbox.run({"main.py": code}, ["python", "main.py"], QUICK, backend, warm=True, **rest)  # type: ignore[arg-type]


def tells(code: str) -> str:
    result = run(code)
    assert result.warm and result.exit_code == 0, result.why_cold + result.stderr
    return result.stdout.strip()


def test_torch_is_there_without_its_import_being_paid_for():
    assert tells("import sys\nprint('torch' in sys.modules)") == "True"
    result = run("import torch\nprint(torch.ones(2).sum().item())")
    assert result.stdout == "2.0\n" and result.cpu_s < 0.5


def test_what_one_run_does_to_torch_the_next_one_does_not_see():
    spoil = "import torch, sys\ntorch.ones = None\nsys.modules['left'] = torch\ntorch.manual_seed(7)\nprint(id(torch) > 0)"
    assert tells(spoil) == "True"
    look = "import torch, sys\nprint(torch.ones(1).item(), 'left' in sys.modules, torch.initial_seed() == 7)"
    assert tells(look) == "1.0 False False"


def test_random_numbers_differ_between_runs():
    code = "import random, uuid\nprint(random.random(), uuid.uuid4())"
    assert tells(code) != tells(code)


def test_the_command_has_no_descriptor_and_no_memory_of_the_launcher_or_of_the_order():
    code = (
        "import os, gc, sys\nprint(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:4])\n"
        "frame, seen = sys._getframe(), ''\nwhile frame: seen += repr(frame.f_locals) + repr(frame.f_globals); frame = frame.f_back\n"
        "for x in gc.get_objects(): seen += repr(x) if isinstance(x, (dict, list, bytes)) and len(x) < 1000 else ''\n"
        "print('se' + 'cret' in seen)"
    )
    result = run(code, stdin=b"secret")
    assert result.stdout == "[0, 1, 2, 3]\nFalse\n", result.stderr


def test_it_behaves_as_an_interpreter_does():
    cold = warmed = None
    code = "import sys\nprint(__name__, sys.argv, __file__)\nimport atexit\natexit.register(print, 'bye')\n1 / 0"
    for is_warm in (False, True):
        result = sandbox.run({"d/main.py": code}, ["python", "-B", "d/main.py", "x"], QUICK, "bwrap", warm=is_warm)
        cold, warmed = warmed, (result.exit_code, result.stdout, result.stderr.replace("    ~~^~~\n", ""))
    assert cold == warmed and warmed and warmed[0] == 1 and "bye" in warmed[1]


@pytest.mark.parametrize(("code", "exit_code"), [("raise SystemExit(7)", 7), ("raise SystemExit", 0), ("raise SystemExit('why')", 1)])
def test_exit_codes_are_the_interpreters(code, exit_code):
    assert run(code).exit_code == exit_code


def test_a_program_may_fork_workers_of_its_own_that_keep_what_is_imported():
    code = (
        "import os, torch\nfor rank in range(2):\n  if os.fork() == 0: print(rank, torch.ones(1).item(), flush=True); os._exit(0)\n"
        "os.wait(); os.wait()"
    )
    assert sorted(tells(code).splitlines()) == ["0 1.0", "1 1.0"]


def test_ranks_forked_in_one_sandbox_reach_each_other_on_its_loopback():
    code = (
        "import os, torch, torch.distributed as dist\nrank = 0 if os.fork() else 1\n"
        "dist.init_process_group('gloo', init_method='tcp://127.0.0.1:29500', rank=rank, world_size=2)\n"
        "x = torch.tensor([float(rank + 1)])\ndist.all_reduce(x)\ndist.destroy_process_group()\n"
        "if rank == 0: os.wait(); print(x.item())"
    )
    assert tells(code) == "3.0"


def test_a_command_that_is_no_python_file_starts_cold_and_says_so():
    result = sandbox.run({}, ["python", "-c", "print(1)"], QUICK, "bwrap", warm=True)
    assert (result.warm, result.stdout, result.why_cold) == (False, "1\n", "the command is not a Python file")


@pytest.fixture
def light(monkeypatch):
    """Parents without torch, which start in no time."""
    monkeypatch.setattr(warm, "PRELOADED", ("json",))


def test_a_parent_that_was_killed_is_replaced(light):
    tells("print(1)")
    parent = warm.current()
    assert parent
    inner = Path(f"/proc/{parent.process.pid}/task/{parent.process.pid}/children").read_text().split()
    os.kill(int(inner[0]), signal.SIGKILL)
    assert tells("print(2)") == "2" and warm.current() is not parent


def test_after_many_runs_the_parent_is_replaced(light, monkeypatch):
    tells("print(1)")
    before = warm.current()
    assert before
    monkeypatch.setattr(warm, "RUNS_PER_PARENT", before.runs)
    assert tells("print(2)") == "2" and warm.current() is not before and before.process.poll() is not None


def test_a_forked_grader_starts_a_parent_of_its_own_and_leaves_ours_alone():
    tells("print(1)")
    ours = warm.current()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if warm.current() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert tells("print(2)") == "2" and warm.current() is ours


def test_nothing_is_left_when_the_process_that_grades_is_killed_in_the_middle_of_a_run():
    mark = f"mark-{os.getpid()}"
    hang = f"import os, sys; os.execv(sys.executable, ['{mark}', '-c', 'import time; time.sleep(50)'])"
    code = "from graders import sandbox\nsandbox.warm.PRELOADED = ('json',)\n"
    code += f"sandbox.run({{'m.py': {hang!r}}}, ['python', 'm.py'], backend='bwrap', warm=True)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPO)
    _wait_until(lambda: _is_running(mark))
    process.kill()
    process.wait()
    _wait_until(lambda: not _is_running(mark) and not _is_running("bwrap", parent=process.pid))


def _wait_until(is_so) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def _is_running(name: str, parent: int = 0) -> bool:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(name.encode()):
                is_child = f"PPid:\t{parent}\n" in (path / "status").read_text()
                if is_child or not parent:
                    return True
        except OSError:
            continue
    return False


def test_an_interpreter_below_tmp_is_still_there_for_what_a_run_imports_late(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    packages = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
    (packages / "late.py").write_text("print('imported')")
    source = "import late\ntry:\n    open(late.__file__, 'w')\nexcept OSError as error:\n    print(error.strerror)"
    code = f"import sys; sys.path.insert(0, {str(REPO)!r})\nfrom graders import sandbox\nsandbox.warm.PRELOADED = ('json',)\n"
    code += f"run = sandbox.run({{'m.py': {source!r}}}, ['python', 'm.py'], backend='bwrap', warm=True)\nprint(run.why_cold + run.stdout)"
    told = subprocess.run([tmp_path / "venv" / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["imported", "Read-only file system"]
