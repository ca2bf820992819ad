"""One rank of a simulated launch: what torchrun would set up, then the submission as `__main__`. Runs INSIDE the sandbox."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import hashlib
import os
import signal
import sys
import traceback
import types
from dataclasses import dataclass
from typing import Any

import fsdp_gpus
import fsdp_host
import fsdp_node
import torch
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp.wrap
import torch.distributed.tensor
from error_lines import steps_in
from fsdp_beyond import NAME, turning
from fsdp_group import Group
from fsdp_mend import BEYOND, mended, wanted
from fsdp_record import Recorder
from fsdp_training_hooks import Training
from fsdp_units import Units
from fsdp_weights import dump

MAX_FD = 4096
WATCHED = (
    torch, torch.Tensor, torch.nn, torch.nn.Module, torch.nn.functional, torch.optim, torch.optim.Optimizer, torch.cuda, torch.autograd,
    torch.distributed, torch.distributed.distributed_c10d, torch.distributed.fsdp, torch.distributed.fsdp.FullyShardedDataParallel,
    torch.distributed.fsdp.wrap, torch.distributed.checkpoint.state_dict, torch.distributed.tensor.DTensor, torch.utils.data,
    torch.utils.data.DataLoader, torch.utils.data.DistributedSampler,
)  # fmt: skip
OURS = ("TMPDIR", "PYTHONDONTWRITEBYTECODE", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # of the sandbox
TESTING = ("unittest", "pytest", "_pytest", "coverage", "bdb", "pdb")  # some builds of torch bring one along, and others don't
HIDDEN = (
    "fsdp_record",
    "fsdp_gpus",
    "fsdp_node",
    "fsdp_host",
    "fsdp_beyond",
    "fsdp_group",
    "fsdp_units",
    "fsdp_mend",
    "fsdp_training_hooks",
    "fsdp_weights",
    "fsdp_rank",
    "fsdp_probe",
    "fsdp_launch",
    "error_lines",
    "comparisons",
)


@dataclass(frozen=True)
class Place:
    """A rank's place in a launch, and the descriptors it tells over."""

    rank: int
    local_rank: int
    env: dict[str, str]
    folder: str
    path: str
    gpus: int
    gpu: str
    argv: list[str]
    batches: int
    n_layers: int
    mends: frozenset[str]
    key: bytes
    events: int
    weights: int
    stdout: int
    stderr: int
    stacks: int


def run_rank(place: Place) -> None:
    """Never returns."""
    code = 1
    # torch makes its pool of threads anew after a fork, at the first call that needs it; two threads at once abort there.
    torch.set_num_threads(1)
    try:
        _streams(place)
        rec = Recorder(place.events, place.path, place.mends, place.key)
        # mp.spawn counts the GPUs of its machine as its ranks: mended, they are those of the launch.
        count = int(place.env["WORLD_SIZE"]) if "spawn" in place.mends else place.gpus
        gpus = fsdp_gpus.Gpus(rec, count, place.local_rank, place.gpu)
        units = Units(rec, gpus, place.n_layers)
        _environment(place)
        mode = fsdp_gpus.install(rec, gpus)
        fsdp_node.install(rec, place.env)
        fsdp_host.install(rec, sys.argv, int(place.env["GROUP_WORLD_SIZE"]), int(place.env["LOCAL_WORLD_SIZE"]))
        group = Group(rec, gpus, place.env)
        training = Training(rec, units, mode, place.batches)
        for part in (group, units, training):
            part.install()
        rec.hide()
        rec.watch(*WATCHED)
        write, seek, cut = os.write, os.lseek, os.ftruncate
        keep = Keeper(place.weights, units, training, rec, (write, seek, cut))
        units.before_gather = keep.dump
        leave, flush = os._exit, (sys.stdout.flush, sys.stderr.flush)
        atexit._clear()
        code = _run(place, rec)
        training.tell_tree()
        rec.tell("tampered", names=rec.tampered())
        mode.__exit__(None, None, None)
        keep.dump()
        rec.tell("dumped")
        for call in flush:
            with contextlib.suppress(Exception):
                call()
        leave(code)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Keeper:
    """Writes this rank's shards where the conductor reads them; the last dump counts."""

    def __init__(self, fd: int, units: Units, training: Training, rec: Recorder, calls: Any) -> None:
        self.fd, self.units, self.training, self.rec = fd, units, training, rec
        self.write, self.seek, self.cut = calls
        self.digest = hashlib.sha256

    def dump(self) -> None:
        root = self.training.model
        if root is None:
            return
        self.training.tell_restored(root)
        try:
            with self.rec.silence():
                data = dump(root)
        except Exception as error:
            self.rec.tell("no_dump", once=True, error=f"{type(error).__name__}: {error}"[:300])
            return
        self.rec.tell("weights", sha256=self.digest(data).hexdigest())
        self.cut(self.fd, 0)
        self.seek(self.fd, 0, 0)
        while data:
            data = data[self.write(self.fd, data) :]


def _streams(place: Place) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(place.stdout, 1)
    os.dup2(place.stderr, 2)
    kept = sorted({0, 1, 2, place.events, place.weights, place.stdout, place.stderr, place.stacks})
    for low, high in zip(kept, [*kept[1:], MAX_FD], strict=True):
        os.closerange(low + 1, high)  # the conductor's own: its order, its channel, the other ranks' pipes
    fsdp_node.streams(place.env)
    faulthandler.register(signal.SIGUSR1, file=place.stacks, all_threads=False)


def _environment(place: Place) -> None:
    os.putenv("GLOO_SOCKET_IFNAME", "lo")
    for name in OURS:
        os.environ.pop(name, None)
    os.environ.update(place.env)
    os.chdir(place.folder)
    sys.argv = [place.path, *place.argv]
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(place.path), *(p for p in sys.path if os.path.abspath(p) != here)]
    for name in [name for name in sys.modules if name in HIDDEN or name.partition(".")[0] in TESTING]:
        sys.modules.pop(name, None)


def _run(place: Place, rec: Recorder) -> int:
    """The exit code that torchrun would see."""
    module = types.ModuleType("__main__")
    module.__file__ = place.path
    sys.modules["__main__"] = module
    if BEYOND in place.mends:
        vars(module)[NAME] = turning(lambda: rec.tell("beyond", once=True))
    try:
        with open(place.path, encoding="utf-8") as file:
            code = compile(mended(file.read(), place.mends), place.path, "exec", dont_inherit=True)  # not our __future__
        exec(code, module.__dict__)  # noqa: S102 - the submission, in its sandbox
        atexit._run_exitfuncs()
    except SystemExit as stop:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        code_of = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        rec.tell(
            "end",
            how="end" if not code_of else "exit",
            code=code_of,
            error="" if not code_of else f"exit code {code_of}",
            lines=_lines(stop, place),
        )
        return code_of
    except BaseException as error:
        sys.stderr.write(traceback.format_exc()[-6000:])
        message = f"{type(error).__name__}: {error}"[:1500]
        lines = _lines(error, place)
        rec.tell("end", how="exception", code=1, error=message, lines=lines, mend=_mend(error, lines, place))
        return 1
    rec.tell("end", how="end", code=0, error="", lines=[])
    return 0


def _mend(error: BaseException, lines: list[int], place: Place) -> str:
    with contextlib.suppress(Exception), open(place.path, encoding="utf-8") as file:
        return str(wanted(error, lines, file.read()))
    return ""


def _lines(error: BaseException, place: Place) -> list[int]:
    """Lines of the submission in a traceback, the innermost first."""
    if isinstance(error, SyntaxError) and error.filename == place.path:
        return [error.lineno or 1]
    return [step.tb_lineno for step in steps_in(place.path, error.__traceback__)][:6]
