"""`run` and `health`: choose a backend, hand the launcher its order, read its report."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from graders.sandbox import backends, gpu, seccomp
from graders.sandbox import warm as warm_parent
from graders.sandbox.backends import Wrapped
from graders.sandbox.cgroup import Cgroup, cgroup_of
from graders.sandbox.result import Limits, Result, SandboxError
from graders.sandbox.warm import Pipes

BACKENDS = ("bwrap", "docker", "process")
GRACE_S = 10.0
WARM_TRIES = 2  # the first may meet a parent that is just dying
RETRY_WITHIN_S, RETRY_PAUSE_S = 5.0, 0.5
MIB = 1 << 20
TRIAL = Limits(wall_s=20, memory_mb=512, address_space_mb=2048, processes=8, disk_mb=8)


@dataclass(frozen=True)
class Job:
    """What is to be run, whatever the backend and the start."""

    files: Mapping[str, bytes | str]
    command: Sequence[str]
    limits: Limits
    stdin: bytes = b""
    collect: Sequence[str] = ()
    on_gpu: bool = False


def run(
    files: Mapping[str, bytes | str],
    command: Sequence[str],
    limits: Limits | None = None,
    backend: str = "auto",
    *,
    stdin: bytes = b"",
    collect: Sequence[str] = (),
    warm: bool = False,
    preload: Sequence[str] = (),
    on_gpu: bool = False,
) -> Result:
    """Run `command` in a fresh sandbox whose work folder holds `files`; "python" is this interpreter.

    The command may write to descriptor 3 (Result.channel); `collect` names files to hand back. `warm`: a command
    `python FILE...` is forked from a parent that has torch and the modules `preload` imported, where that can be done;
    Result.warm tells. A command started so may fork workers of its own, which then have them too.
    `on_gpu`: it is given the GPUs that runs may have (`has_gpu`), and address space without a limit, as CUDA reserves
    far more than it uses.
    Raises SandboxError when no backend can be used or the sandbox itself fails; a command that
    crashes, hangs or breaks a limit is a Result.
    """
    limits = limits or Limits()
    _check_names([*files, *collect])
    chosen = choose_backend(backend)
    job = Job(files, command, limits, stdin, collect, on_gpu)
    why_cold = _why_cold(chosen, job) if warm else ""
    for _ in range(WARM_TRIES if warm and not why_cold else 0):
        try:
            return _run_warm(chosen, job, preload)
        except SandboxError as error:
            why_cold = str(error)
        if warm_parent.why_not():
            break
    return _run_cold(chosen, job, why_cold)


def _run_cold(backend: str, job: Job, why_cold: str) -> Result:
    started = time.monotonic()
    while True:
        try:
            with _wrapped(backend, job) as wrapped, _cgroup(backend, job.limits) as cgroup:
                report = _talk(wrapped, _order(wrapped, job), job.limits, backend, cgroup)
                return _result(backend, report, job.limits, cgroup, why_cold=why_cold)
        except SandboxError:
            # A machine short of processes or memory can refuse to start one: that passes. A command can't cause it.
            if time.monotonic() - started > RETRY_WITHIN_S:
                raise
            time.sleep(RETRY_PAUSE_S)


def choose_backend(backend: str = "auto") -> str:
    """The backend that `run` would use. Raises SandboxError saying what to install or set."""
    if backend != "auto":
        if backend not in BACKENDS:
            raise SandboxError(f"sandbox backend is {backend!r}, allowed: auto, {', '.join(BACKENDS)}")
        if why := _refusal(backend):
            raise SandboxError(f"sandbox backend {backend} can't be used: {why}")
        return backend
    refusals = {}
    for name in BACKENDS:
        refusals[name] = _refusal(name)
        if not refusals[name]:
            return name
    told = "; ".join(f"{name}: {why}" for name, why in refusals.items())
    raise SandboxError(
        f"no sandbox to run untrusted code in. Install bubblewrap ({backends.INSTALL_HINT}), or start docker and set "
        f"{backends.IMAGE_VARIABLE}, or for development set {backends.UNSAFE_VARIABLE}=1. Tried: {told}"
    )


def has_gpu(backend: str = "auto") -> bool:
    """May a run be given a GPU here? Whether torch can use it shows when one is run. Raises SandboxError."""
    return bool(gpu.for_docker()) if choose_backend(backend) == "docker" else bool(gpu.device_files())


def health() -> dict[str, Any]:
    """Which backend `auto` means here, and why each other one would not do: for the health page."""
    refusals = {name: _refusal(name) for name in BACKENDS}
    chosen = next((name for name in BACKENDS if not refusals[name]), None)
    return {
        "backend": chosen,
        "ok": chosen is not None,
        "safe": chosen in ("bwrap", "docker"),
        "refused": {name: why for name, why in refusals.items() if why},
        "hint": "" if chosen else backends.INSTALL_HINT,
    }


def forget_trials() -> None:
    """Try the backends anew at the next call: after an installation, and in tests."""
    _tried_bwrap_mode.cache_clear()
    _docker_refusal.cache_clear()
    backends._bwrap_path.cache_clear()


def _refusal(name: str) -> str:
    if name == "bwrap":
        return backends.refuse_bwrap() or _bwrap_mode()[1]
    if name == "docker":
        return _docker_refusal()
    return backends.refuse_process()


@lru_cache(maxsize=1)
def _docker_refusal() -> str:
    return backends.refuse_docker()


def _bwrap_mode() -> tuple[bool, str]:
    """(keep our uid?, why bwrap does not work). A success is remembered; a failure may pass, and is tried again."""
    try:
        return _tried_bwrap_mode(), ""
    except SandboxError as error:
        return True, str(error)


@lru_cache(maxsize=1)
def _tried_bwrap_mode() -> bool:
    """Whether to keep our uid. Root first tries to drop to a uid of its own, then without. Raises SandboxError."""
    why = ""
    for keep_uid in (False, True) if os.geteuid() == 0 else (True,):
        wrapped = backends.wrap_bwrap(TRIAL, keep_uid=keep_uid)
        code = "import os; os.write(3, b'ready')"
        try:
            order = _order(wrapped, Job({}, ["python", "-I", "-c", code], TRIAL))
            report = _talk(wrapped, order, TRIAL, "bwrap", None)
        except SandboxError as error:
            why = str(error)
            continue
        if base64.b64decode(report["streams"][2]) == b"ready":
            return keep_uid
        why = "a trial run failed: " + base64.b64decode(report["streams"][1]).decode(errors="replace")[-300:]
    raise SandboxError(why)


@contextlib.contextmanager
def _wrapped(backend: str, job: Job) -> Iterator[Wrapped]:
    if backend == "bwrap":
        yield backends.wrap_bwrap(job.limits, keep_uid=_bwrap_mode()[0], gpu=job.on_gpu)
    elif backend == "docker":
        name = f"touchstone-{secrets.token_hex(8)}"
        try:
            yield backends.wrap_docker(job.limits, os.environ[backends.IMAGE_VARIABLE], name, gpu=job.on_gpu)
        finally:
            backends.remove_container(name)
    else:
        with tempfile.TemporaryDirectory(prefix="unsafe-sandbox-", ignore_cleanup_errors=True) as folder:
            yield backends.wrap_process(os.path.realpath(folder), gpu=job.on_gpu)


def _cgroup(backend: str, limits: Limits) -> contextlib.AbstractContextManager[Cgroup | None]:
    """Docker makes one of its own."""
    return cgroup_of(limits) if backend != "docker" else contextlib.nullcontext()


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise ValueError(f"file name in the sandbox is {name!r}, must be relative and without ..")


def _order(wrapped: Wrapped, job: Job) -> dict[str, Any]:
    limits = job.limits
    cpu_s = math.ceil(limits.cpu_s if limits.cpu_s is not None else 2 * limits.wall_s)
    return {
        "calls": seccomp.program(),
        "folder": wrapped.folder,
        "env": wrapped.env,
        "command": [wrapped.python if part == "python" and i == 0 else part for i, part in enumerate(job.command)],
        "files": {name: _b64(data) for name, data in job.files.items()},
        "stdin": _b64(job.stdin),
        "collect": list(job.collect),
        "wall_s": limits.wall_s,
        "memory_bytes": limits.memory_mb * MIB,
        "processes": limits.processes,
        "output_bytes": limits.output_mb * MIB,
        "tail_bytes": limits.tail_kb * 1024,
        "channel_bytes": limits.channel_kb * 1024,
        "collect_bytes": limits.collect_mb * MIB,
        "rlimits": {
            "RLIMIT_CPU": cpu_s,
            **({} if job.on_gpu else {"RLIMIT_AS": limits.address_space_mb * MIB}),
            "RLIMIT_FSIZE": limits.file_mb * MIB,
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": 1024,
            "RLIMIT_MEMLOCK": MIB,
            "RLIMIT_MSGQUEUE": MIB,
            **({"RLIMIT_NPROC": limits.processes} if wrapped.is_alone else {}),
        },
    }


def _b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _talk(wrapped: Wrapped, order: Mapping[str, Any], limits: Limits, backend: str, cgroup: Cgroup | None) -> dict[str, Any]:
    """Start the launcher, give it its order, wait for the report; kill all of it when it overstays."""
    door = [cgroup.door] if cgroup else []
    head = json.dumps({"uid": wrapped.uid, "door": door[0] if door else None}).encode() + b"\n"
    kept = backends.DOCKER_ENVIRONMENT if backend == "docker" else ()
    process = subprocess.Popen(
        wrapped.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=door,
        env={name: os.environ[name] for name in kept if name in os.environ},
    )
    assert process.stdin and process.stdout and process.stderr
    pipes = Pipes(process.stdin, process.stdout, process.stderr)
    try:
        out, err = _exchange(pipes, head + _framed(order), limits, len(order["collect"]))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pipes.close()
    return _parse_report(out, err, backend)


def _run_warm(backend: str, job: Job, preload: Sequence[str]) -> Result:
    """A run forked from the warm parent. Raises SandboxError when it has to start cold."""
    inside = Wrapped([], 0, backends.WORK, "python", backends.inner_env(backends.WORK))
    report = None
    with _cgroup(backend, job.limits) as cgroup:
        try:
            door = [cgroup.door] if cgroup else []
            parent, pipes = warm_parent.begin(preload, job.limits, door, keep_uid=_bwrap_mode()[0])
        except SandboxError as error:
            warm_parent.give_up(str(error))
            raise
        try:
            out, err = _exchange(pipes, _framed(_order(inside, job)), job.limits, len(job.collect))
            report = _parse_report(out, err, backend)
        except SandboxError as error:
            _, is_refused, why = str(error).partition("warm start: ")
            if is_refused:
                warm_parent.give_up(why)
                raise SandboxError(why) from None
            raise
        finally:
            pipes.close()
            warm_parent.end(parent, is_broken=report is None)
        return _result(backend, report, job.limits, cgroup, warm=True)


def _why_cold(backend: str, job: Job) -> str:
    if job.on_gpu:
        return "a warm parent is given no GPU"
    if backend != "bwrap":
        return f"the {backend} backend has no warm start"
    if not warm_parent.can_fork(job.command):
        return "the command is not a Python file"
    return warm_parent.why_not()


def _framed(order: Mapping[str, Any]) -> bytes:
    text = json.dumps(order).encode()
    return b"%d\n%s" % (len(text), text)


def _exchange(pipes: Pipes, order: bytes, limits: Limits, n_collected: int) -> tuple[bytes, bytes]:
    """Write the order and read both streams to their end; stdin stays open, as its end means "stop"."""
    deadline = time.monotonic() + limits.wall_s + GRACE_S
    cap = 2 * (limits.channel_kb * 1024 + n_collected * limits.collect_mb * MIB) + MIB
    out, err = bytearray(), bytearray()
    sinks = {pipes.report: out, pipes.complaints: err}
    left = memoryview(order)
    os.set_blocking(pipes.order.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipes.order, selectors.EVENT_WRITE)
        for stream in sinks:
            selector.register(stream, selectors.EVENT_READ)
        reading = len(sinks)
        while reading and (wait_s := deadline - time.monotonic()) > 0 and len(out) <= cap and len(err) <= MIB:
            for key, _ in selector.select(wait_s):
                if key.fileobj is pipes.order:
                    try:
                        left = left[os.write(key.fd, left[: 1 << 16]) :]
                    except BrokenPipeError:
                        left = left[:0]
                    if not left:
                        selector.unregister(pipes.order)
                elif chunk := os.read(key.fd, 1 << 16):
                    sinks[key.fileobj].extend(chunk)  # type: ignore[index]
                else:
                    selector.unregister(key.fileobj)
                    reading -= 1
    return bytes(out), bytes(err)


def _parse_report(out: bytes, err: bytes, backend: str) -> dict[str, Any]:
    try:
        report = json.loads(out)
        if not isinstance(report, dict):
            raise ValueError("not an object")
        return report
    except ValueError:
        told = err.decode(errors="replace").strip()[-500:] or "it ended without a report"
        raise SandboxError(f"sandbox {backend} failed: {told}") from None


def _result(
    backend: str, report: dict[str, Any], limits: Limits, cgroup: Cgroup | None, *, warm: bool = False, why_cold: str = ""
) -> Result:
    if cgroup and cgroup.was_out_of_memory() and not report.get("limit"):
        report.update(limit="memory", exit_code=None, signal=None)
    try:
        stdout, stderr, channel = (base64.b64decode(text) for text in report["streams"])
        return Result(
            backend=backend,
            exit_code=report["exit_code"],
            signal=report["signal"],
            timed_out=report["limit"] == "wall" or report["signal"] == signal.SIGXCPU,
            limit=str(report["limit"]),
            wall_s=round(float(report["wall_s"]), 3),
            cpu_s=round(float(report["cpu_s"]), 3),
            peak_memory_mb=round(max(report["peak_bytes"], cgroup.peak_bytes() if cgroup else 0) / MIB, 1),
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            stdout_bytes=int(report["totals"][0]),
            stderr_bytes=int(report["totals"][1]),
            channel=channel if len(channel) <= limits.channel_kb * 1024 else b"",
            files={name: base64.b64decode(text) for name, text in report["files"].items()},
            network=backend == "process",
            warm=warm,
            why_cold=why_cold,
            cgroup=cgroup is not None,
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise SandboxError(f"sandbox {backend} sent a report that is not ours: {error}") from None
