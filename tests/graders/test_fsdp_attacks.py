"""FSDP submissions that attack their grading: in a real sandbox, none gets a pass."""

from __future__ import annotations

import functools

import pytest

from graders import registry
from graders.code.fsdp_source import doubts
from graders.code.source import read_source
from graders.grade import Grade
from tests.graders.fsdp_programs import program, task
from tests.programs import require_program

EVENT = '{"kind": "end", "line": 1, "how": "end"}'
ATTACKS = {
    "leaving before the end": {"early": "os._exit(0)"},
    "writing to every descriptor": {
        "top": "for fd in range(3, 64):\n    try:\n"
        f"        open(fd, 'wb', closefd=False).write(b'{EVENT}\\n')\n    except Exception:\n        pass"
    },
    "killing the conductor": {"early": "os.kill(os.getppid(), 9)"},
}


@functools.cache
def graded(source: str, timeout_s: float = 90) -> Grade:
    require_program("bwrap")
    return registry.get("fsdp_training").grade(task(), source, timeout_s=timeout_s, backend="bwrap")


@pytest.mark.parametrize("parts", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_no_pass(parts):
    found = graded(program(**parts))
    assert found.passed is not True
    assert next(c for c in found.criteria if c.key == "runs_multi_node").passed is not True


def test_an_honest_script_passes_in_the_sandbox_and_says_how_it_was_run():
    found = graded(program())
    assert found.passed and found.sandbox["backend"] == "bwrap" and found.sandbox["network"] is False


def test_what_is_wrong_at_the_starters_own_options_only_fails():
    found = graded(program(begin="sampler.set_epoch(epoch * (args.out != 'checkpoint.pt'))"))
    failed = [c for c in found.criteria if not c.passed]
    assert [c.key for c in failed] == ["distributed_sampler"] and "default options" in failed[0].rationale


def test_a_pickle_in_the_checkpoint_is_not_run():
    trap = "class Trap:\n    def __reduce__(self):\n        return (print, ('trapped',))\n"
    found = graded(program(top=trap, save='if rank == 0:\n    torch.save({"model": state, "trap": Trap()}, args.out)'))
    row = next(c for c in found.criteria if c.key == "full_state_dict")
    assert row.passed is False and "does not load" in row.rationale


def test_a_program_that_never_ends_costs_its_limit_and_is_a_timeout():
    found = graded(program(early="while True:\n    pass"), 16)
    assert (found.passed, found.runs) == (False, False) and found.duration_s < 16


REACHING = [
    "import sys\nsys._getframe()",
    "import gc\ngc.get_objects()",
    "import ctypes",
    "exec('x = 1')",
    "import os\nos.write(5, b'')",
    "dist.all_reduce.__closure__",
    "open('/proc/self/fd/5', 'wb')",
    "from inspect import currentframe",
]


@pytest.mark.parametrize("code", REACHING)
def test_reaching_into_the_record_is_noticed(code):
    assert doubts(read_source(code)).reaching


PLAIN = [
    "import tempfile\nfd, name = tempfile.mkstemp()\nwith os.fdopen(fd, 'wb') as f:\n    os.fsync(f.fileno())\nos.replace(name, 'x')",
    "import sys\nsys.stdout = os.fdopen(sys.stdout.fileno(), 'w', buffering=1)\nos.write(2, b'')",
    "folder = os.open('.', os.O_RDONLY)\nos.fsync(folder)",
    "import importlib.util, faulthandler\nfaulthandler.enable()\nfound = importlib.util.find_spec('tqdm')",
    "import subprocess\nsubprocess.check_output(['git', 'rev-parse', 'HEAD'], stderr=subprocess.DEVNULL)",
    "config = {key: globals()[key] for key in ('lr',)}",
]
DISGUISED = [
    "fd, _ = mkstemp()\nfor fd in range(9):\n    os.write(fd, b'')",
    "write = os.write\nwrite(5, b'')",
    "os.dup2(1, 5)",
    "import importlib.util\nimportlib.import_module('ctypes')",
    "import subprocess\nsubprocess.run(['sh', 'x'])",
    "names = globals()",
    "import builtins\nbuiltins.exec('x')",
]


@pytest.mark.parametrize("code", PLAIN)
def test_what_honest_scripts_do_with_files_of_their_own_is_not_doubted(code):
    found = doubts(read_source(f"import os\n{code}"))
    assert not found.reaching and not found.replacing


@pytest.mark.parametrize("code", DISGUISED)
def test_what_only_looks_like_that_is(code):
    found = doubts(read_source(f"import os\n{code}"))
    assert found.reaching or found.replacing


@pytest.mark.parametrize("code", ["import torch\ntorch.save = print", "import torch.distributed as d\nsetattr(d, 'barrier', print)"])
def test_replacing_what_is_a_librarys_is_noticed(code):
    assert doubts(read_source(code)).replacing


def test_a_module_put_in_anothers_place_is_a_replacement_and_reading_the_table_reaches():
    put = doubts(read_source("import sys\nsys.modules['torch.distributed.fsdp'] = sys"))
    assert put.replacing and not put.reaching
    assert doubts(read_source("import sys\nsys.modules['ctypes'].memmove")).reaching


def test_another_way_at_sizes_that_no_launch_has_is_noticed_and_a_refusal_is_not():
    assert doubts(read_source("small = world_size <= 8")).unseen and doubts(read_source("if args.n_samples > 100:\n    x = 1")).unseen
    for table in (
        "x = {2: 1, 3: 2}.get(world, 0)",
        "x = dist.get_world_size() in (2, 3)",
        "MOST = 3\nx = world > MOST",
        "x = min(world, 3)",
        "now.year < 2030",
    ):
        assert doubts(read_source(table)).unseen, table
    assert not doubts(read_source("positions = max(256, args.seq_len)\nlead = rank == 0 and epoch == 1")).unseen
    assert not doubts(read_source("if args.seq_len > 256:\n    raise ValueError\nassert world <= 64\nif world > 1:\n    x = 1")).unseen


def test_an_honest_script_is_not_doubted():
    found = doubts(
        read_source(program(top="import gc, sys, builtins\ntorch.backends.cudnn.benchmark = True\ngc.collect()\nsys.stdout = sys.stderr"))
    )
    assert not found.reaching and not found.replacing
