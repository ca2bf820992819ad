"""Runs on a real GPU: who gets one, and what a grade keeps of it. The last part needs a GPU and is skipped elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from graders import sandbox
from graders.code import on_gpu
from graders.code.memory_optimization import MemoryOptimizationGrader, beside_gpu
from graders.grade import CriterionScore, Grade
from graders.sandbox import Limits, SandboxError, backends, gpu
from tasks.task import Task, load_tasks

TOLD = on_gpu.GpuRun("NVIDIA H100", "", 120.0, 160.0, 400.0, 9.0, "final loss: 5.1\n", ended=True)
CRASH = replace(TOLD, error="RuntimeError: no kernel (line 3)")
FAST = Limits(wall_s=60, memory_mb=on_gpu.MEMORY_MB, processes=on_gpu.PROCESSES)


@cache
def task() -> Task:
    return next(t for t in load_tasks() if t.slug == "memory_optimization")


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """The device files of two GPUs."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpu, "DEV", tmp_path)
    monkeypatch.delenv(gpu.GPUS_VARIABLE, raising=False)
    yield tmp_path
    on_gpu._starter_on_gpu.cache_clear()  # what the starter did on these says nothing of a real GPU


def names(files: tuple[str, ...]) -> set[str]:
    return {path.rpartition("/")[2] for path in files}


def test_a_run_that_asks_gets_every_gpu_and_what_the_driver_needs(two_gpus):
    assert names(gpu.device_files()) == {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"}


def test_gpus_can_be_named_and_withheld(two_gpus, monkeypatch):
    monkeypatch.setenv(gpu.GPUS_VARIABLE, "device=1")
    assert names(gpu.device_files()) == {"nvidia1", "nvidiactl", "nvidia-uvm"}
    for none in ("none", "device=7"):
        monkeypatch.setenv(gpu.GPUS_VARIABLE, none)
        assert gpu.device_files() == () and not sandbox.has_gpu("bwrap")


def test_a_wrong_setting_says_what_is_allowed(two_gpus, monkeypatch):
    monkeypatch.setenv(gpu.GPUS_VARIABLE, "0")
    with pytest.raises(SandboxError, match="SANDBOX_GPUS is '0', allowed: all, none, device=0"):
        gpu.device_files()


def test_bubblewrap_shows_a_gpu_to_those_runs_alone_that_ask(two_gpus):
    asking = backends.wrap_bwrap(Limits(), keep_uid=True, gpu=True).argv
    assert asking.count("--dev-bind") == 4 and str(two_gpus / "nvidia0") in asking
    assert "--dev-bind" not in backends.wrap_bwrap(Limits(), keep_uid=True).argv


def test_a_gpu_on_which_the_starter_does_not_run_leaves_the_grade_as_it_was(two_gpus):
    found = on_gpu.run(task().starter, task().starter, "bwrap")  # its device files are empty
    assert found.says is None and "starter does not run on the GPU here: torch sees no GPU" in found.error
    assert beside_gpu(task(), grade(runs=True), found) == replace(grade(runs=True), sandbox={"gpu_run": found.facts()})


# --- the grade beside it ---


def grade(*, runs: bool, met: int = 7) -> Grade:
    rows = [CriterionScore(c.key, n < met, float(n < met), 1.0) for n, c in enumerate(task().rubric.criteria)]
    error, category = (None, "") if runs else ("TypeError: autocast", "wrong_autocast_api")
    return Grade("memory_optimization", tuple(rows), runs and met >= 6, met / 18, runs, category, error)


def test_where_both_say_the_same_the_grade_stands_and_keeps_the_true_peak():
    for runs, there in ((True, TOLD), (False, CRASH)):
        found = beside_gpu(task(), grade(runs=runs), there)
        assert (found.passed, found.runs, found.error) == (runs, runs, grade(runs=runs).error)
    kept = beside_gpu(task(), grade(runs=True), TOLD).sandbox["gpu_run"]
    assert kept["device"] == "NVIDIA H100" and (kept["peak_mb"], kept["starter_peak_mb"], kept["runs"]) == (120.0, 400.0, True)


def test_a_program_that_ends_on_the_real_gpu_alone_neither_passes_nor_fails():
    found = beside_gpu(task(), grade(runs=True), CRASH)
    assert found.passed is None and found.runs is None
    assert found.error == "on the pretended GPU it runs to its end, on NVIDIA H100 it ends with RuntimeError: no kernel (line 3)"


def test_one_that_prints_no_final_loss_there_is_no_pass_either():
    found = beside_gpu(task(), grade(runs=True), replace(TOLD, stdout="done\n"))
    assert found.passed is None and "without the line `final loss: X`" in (found.error or "")


def test_one_that_leaves_the_real_gpu_empty_is_no_pass_either():
    found = beside_gpu(task(), grade(runs=True), replace(TOLD, peak_mb=0.0))  # another process did the training, or none
    assert found.passed is None and "on NVIDIA H100 it runs to its end and uses none of the GPU's memory" in (found.error or "")


def test_a_program_that_runs_on_the_real_gpu_alone_neither_passes_nor_fails():
    found = beside_gpu(task(), grade(runs=False), TOLD)
    assert found.passed is None and found.failure_category == ""
    assert found.error == "on the pretended GPU it ends with TypeError: autocast, on NVIDIA H100 it runs to its end"


def test_an_option_that_is_gone_stays_a_failure():
    gone = replace(grade(runs=False), sandbox={"option_gone": "--lr"})
    assert beside_gpu(task(), gone, TOLD).passed is False


def test_too_few_techniques_fail_whatever_the_real_gpu_says():
    assert beside_gpu(task(), grade(runs=False, met=2), TOLD).passed is False


@pytest.mark.parametrize(
    "error", ["OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "InductorError: RuntimeError: Failed to find C compiler"]
)
def test_what_the_machine_lacks_is_not_held_against_a_program(error):
    found = beside_gpu(task(), grade(runs=True), replace(TOLD, error=error))
    assert found.passed is True and found.sandbox["gpu_run"]["error"] == error


# --- with a GPU ---

needs_gpu = pytest.mark.skipif(not sandbox.has_gpu("bwrap"), reason="no GPU here")


@needs_gpu
def test_only_a_run_that_asks_sees_the_gpu():
    code = "import os, torch; print(torch.cuda.is_available(), os.path.exists('/dev/nvidiactl'))"
    seen = [sandbox.run({"m.py": code}, ["python", "m.py"], FAST, on_gpu=asks).stdout.split() for asks in (True, False)]
    assert seen == [["True", "True"], ["False", "False"]]


@needs_gpu
def test_the_peak_is_told_whatever_the_program_resets():
    code = (
        "import torch\nx = torch.empty(300 << 20, dtype=torch.uint8, device='cuda')\ndel x\n"
        "torch.cuda.empty_cache()\ntorch.cuda.reset_peak_memory_stats()\nprint('final loss: 1.0')\n"
    )
    found = on_gpu.run(code, task().starter, "bwrap")
    assert found.says and 300 <= found.peak_mb < 310


@needs_gpu
def test_a_program_that_fails_there_says_where():
    found = on_gpu.run("import torch\nx = torch.zeros(3, device='cuda')\nx @ torch.zeros(3)\n", task().starter, "bwrap")
    assert found.says is False and "same device" in found.error and "(line 3)" in found.error


@needs_gpu
def test_a_run_over_its_time_leaves_the_gpu_free(monkeypatch):
    monkeypatch.setattr(on_gpu, "LONGEST_S", 15.0)
    code = "import torch\nx = torch.empty(20 << 30, dtype=torch.uint8, device='cuda')\nwhile True: x += 1\n"
    found = on_gpu.run(code, task().starter, "bwrap")
    assert found.says is None and "wall limit" in found.error and found.wall_s < 20
    free = sandbox.run({"m.py": "import torch; print(torch.cuda.mem_get_info()[0] >> 30)"}, ["python", "m.py"], FAST, on_gpu=True)
    assert int(free.stdout) > 20


@needs_gpu
def test_hostile_programs_are_held_there_as_elsewhere():
    code = (
        "import os, socket, torch\ntorch.zeros(1, device='cuda')\n"
        "for place in ('/home', '/root', '/work'):\n    print(place, os.path.exists(place) and os.listdir(place))\n"
        "try:\n    socket.create_connection(('127.0.0.1', 22), 1)\nexcept OSError as e:\n    print(type(e).__name__)\n"
        "print(os.getuid() == 0 and open('/etc/shadow').read())\n"
    )
    found = sandbox.run({"m.py": code}, ["python", "m.py"], FAST, on_gpu=True)
    assert found.exit_code != 0 or "root:" not in found.stdout
    assert "ConnectionRefusedError" in found.stdout or "OSError" in found.stdout
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    assert sandbox.run({"m.py": bomb}, ["python", "m.py"], replace(FAST, wall_s=5), on_gpu=True).limit in ("processes", "wall")


@needs_gpu
def test_a_grade_holds_the_real_peak_beside_the_starters():
    found = MemoryOptimizationGrader().grade(task(), task().starter).sandbox["gpu_run"]
    assert found["runs"] and found["device"] and found["peak_mb"] == pytest.approx(found["starter_peak_mb"], rel=0.05)
