"""How each backend wraps the launcher: the argument vector, the environment, and whether it can be used here.

bwrap mounts, read-only: /usr and its /bin /lib siblings, the linker's cache, and of the running interpreter and
virtual environment the folders bin and lib, wherever they lie. The home, the project and the data folder stay out,
and are covered by an empty folder if one of them lies inside a mounted one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graders.sandbox import gpu as gpus
from graders.sandbox.result import Limits

PROJECT = Path(__file__).resolve().parents[2]
LAUNCHER = (Path(__file__).parent / "launch.py").read_text(encoding="utf-8")
ZYGOTE = (Path(__file__).parent / "zygote.py").read_text(encoding="utf-8")
INSTALL_HINT = "apt-get install bubblewrap"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
WORK = "/workspace"  # the name tells nothing to who looks for a sandbox
UNSAFE_VARIABLE = "ALLOW_UNSAFE_SANDBOX"
IMAGE_VARIABLE = "SANDBOX_IMAGE"
DOCKER_ENVIRONMENT = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
FIRST_UID, UIDS = 1_000_000_000, 500_000_000
MIB = 1 << 20


@dataclass(frozen=True)
class Wrapped:
    """A launcher to start: its arguments, the uid it gives root up for (0: it has none to give up), its work folder."""

    argv: list[str]
    uid: int
    folder: str
    python: str
    env: dict[str, str]
    # Its user is nobody else's, so that the kernel's count of a user's processes is the count of its own.
    is_alone: bool = True


def inner_env(folder: str) -> dict[str, str]:
    """All the environment that the command gets. One thread: the machine is shared, and results repeat."""
    path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")}
    return {"PATH": path, "HOME": folder, "TMPDIR": folder, "USER": "sandbox", "LOGNAME": "sandbox", "LANG": "C.UTF-8", **one}


def interpreter() -> str:
    """The Python of this virtual environment: what `python` means as a sandboxed command."""
    ours = Path(sys.prefix, "bin", "python")
    return str(ours) if ours.exists() else sys.executable


# --- bwrap ------------------------------------------------------------------------------------------------


def wrap_bwrap(limits: Limits, *, keep_uid: bool, gpu: bool = False) -> Wrapped:
    """The bwrap call. As root we drop to a uid that nobody has, unless `keep_uid`; else we stay who we are."""
    drops = os.geteuid() == 0 and not keep_uid
    python = interpreter()
    argv = [
        *(_bwrap("CAP_SETUID", "CAP_SETGID") if drops else _bwrap()),
        *("--die-with-parent", "--clearenv", "--proc", "/proc"),
        *_filesystem(limits.disk_mb, gpus.device_files() if gpu else ()),
        *(python, "-I", "-S", "-B", "-c", LAUNCHER),
    ]
    env = inner_env(WORK) | (gpus.environment() if gpu else {})
    return Wrapped(argv, fresh_uid() if drops else 0, WORK, python, env)


def wrap_warm_parent(control: int, modules: Sequence[str], *, keep_uid: bool) -> Wrapped:
    """The bwrap call of the warm parent: what a cold run sees, but /proc is its own to mount where root starts it."""
    drops = os.geteuid() == 0 and not keep_uid
    python = interpreter()
    argv = [
        *(_bwrap("CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN") if drops else _bwrap()),
        *(("--dir", "/proc") if drops else ("--proc", "/proc")),
        *_filesystem(disk_mb=1),
        *(python, "-I", "-B", "-c", ZYGOTE, LAUNCHER, str(control), *modules),
    ]
    return Wrapped(argv, 0, WORK, python, inner_env(WORK))


def fresh_uid() -> int:
    return FIRST_UID + secrets.randbelow(UIDS)


def _bwrap(*capabilities: str) -> list[str]:
    """Namespaces of its own. With capabilities it is for root to start, who gives root up inside."""
    return [
        _bwrap_path() or "bwrap",
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--as-pid-1", "--new-session", "--hostname", "gpu-node-07", "--cap-drop", "ALL"),
        *(part for name in capabilities for part in ("--cap-add", name)),
        *(() if capabilities else ("--unshare-user",)),
    ]


def _filesystem(disk_mb: int, devices: Sequence[str] = ()) -> list[str]:
    return [
        *("--dev", "/dev"),
        *(part for path in devices for part in ("--dev-bind", path, path)),
        *_scratch("/dev/shm", disk_mb),  # noqa: S108
        *_scratch("/tmp", disk_mb),  # noqa: S108
        *_scratch(WORK, disk_mb),
        *_mounts(),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK, "--"),
    ]


def _mounts() -> list[str]:
    args: list[str] = []
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            args += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            args += ["--ro-bind", name, name]
    args += _open_folder("/etc")
    for name in ETC:
        args += ["--ro-bind-try", name, name]
    bound = [Path(name) for name in ("/usr", "/bin", "/sbin", "/lib", "/lib64")]
    for hidden in _hidden():
        if any(hidden != b and hidden.is_relative_to(b) for b in bound):
            args += ["--tmpfs", str(hidden)]
    paths = _interpreter_paths()
    for parent in dict.fromkeys(parent for path in paths for parent in reversed(path.parents)):
        if parent != Path("/") and not _in_system(parent):
            args += _open_folder(str(parent))
    for path in paths:
        args += ["--ro-bind", str(path), str(path)]
    return args


def _open_folder(path: str) -> list[str]:
    """Left to itself, bwrap makes the folders above a mount for its own uid only."""
    return ["--perms", "0755", "--dir", path]


def _interpreter_paths() -> list[Path]:
    """bin, lib and pyvenv.cfg of the virtual environment and of the interpreter behind it, outside /usr."""
    prefixes = [sys.base_prefix, os.path.realpath(sys.base_prefix), sys.prefix, os.path.realpath(sys.prefix)]
    prefixes.append(str(Path(os.path.realpath(sys.executable)).parent.parent))
    names = {"bin", "lib", "lib64", "pyvenv.cfg", sysconfig.get_config_var("platlibdir") or "lib"}
    paths = [Path(prefix, name) for prefix in dict.fromkeys(prefixes) for name in sorted(names)]
    outside = [p for p in paths if p.exists() and not _in_system(p)]
    return list(dict.fromkeys(outside))


def _in_system(path: Path) -> bool:
    inside = any(path.is_relative_to(name) for name in SYSTEM)
    return inside and not any(path.is_relative_to(hidden) for hidden in _hidden())


def _hidden() -> list[Path]:
    """What must not be seen even where it lies below a mounted folder."""
    places = [PROJECT, Path.home()]
    if data := os.environ.get("DATA_DIR"):
        places.append(Path(data).resolve())
    return [p for p in places if p != Path("/") and p.exists()]


def _scratch(path: str, disk_mb: int) -> list[str]:
    return ["--perms", "1777", "--size", str(disk_mb * MIB), "--tmpfs", path]


@lru_cache(maxsize=1)
def _bwrap_path() -> str | None:
    return shutil.which("bwrap")


def refuse_bwrap() -> str:
    """Why bwrap can't be used, from the outside; "" when it is there (a trial run says more)."""
    if sys.platform != "linux":
        return "bubblewrap needs Linux"
    return "" if _bwrap_path() else f"bubblewrap is not installed: {INSTALL_HINT}"


# --- docker -----------------------------------------------------------------------------------------------


def wrap_docker(limits: Limits, image: str, name: str, *, gpu: bool = False) -> Wrapped:
    """The docker call. The image must hold Python 3.11 with the versions of requirements.txt."""
    size = limits.disk_mb
    given = gpus.for_docker() if gpu else ""
    argv = [
        *(
            "docker",
            "run",
            "--rm",
            "-i",
            "--name",
            name,
            *(("--gpus", given) if given else ()),
            "--network",
            "none",
            "--read-only",
            "--cap-drop",
            "ALL",
        ),
        *("--security-opt", "no-new-privileges", "--user", "65534:65534", "--log-driver", "none"),
        *("--pids-limit", str(limits.processes + 8), "--memory", f"{limits.memory_mb + 64}m", "--ipc", "private"),
        *("--memory-swap", f"{limits.memory_mb + 64}m", "--tmpfs", f"{WORK}:rw,exec,size={size}m,mode=1777"),
        *("--tmpfs", f"/tmp:rw,size={size}m,mode=1777", "--shm-size", f"{size}m", "--workdir", WORK),  # noqa: S108
        *("--entrypoint", "python", image, "-I", "-S", "-B", "-c", LAUNCHER),
    ]
    env = {**inner_env(WORK), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return Wrapped(argv, 0, WORK, "python", env, is_alone=False)


def remove_container(name: str) -> None:
    """Whatever became of the client: the container is gone."""
    _quiet(["docker", "rm", "--force", name])


def refuse_docker() -> str:
    """Why docker can't be used; "" when a daemon answers and an image is named and there."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if _quiet(["docker", "info"]):
        return "no docker daemon answers"
    image = os.environ.get(IMAGE_VARIABLE)
    if not image:
        return f"{IMAGE_VARIABLE} is not set: name an image with Python and the packages of requirements.txt"
    missing = _quiet(["docker", "image", "inspect", image])
    return f"the docker image {image} ({IMAGE_VARIABLE}) is not here: docker pull it" if missing else ""


def _quiet(argv: list[str]) -> bool:
    """True when the program fails or does not answer within 5 seconds."""
    try:
        return subprocess.run(argv, capture_output=True, timeout=5, check=False).returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        return True


# --- process ----------------------------------------------------------------------------------------------


def wrap_process(folder: str, *, gpu: bool = False) -> Wrapped:
    """No isolation: limits, a session and a folder of its own. For development only."""
    python = interpreter()
    env = inner_env(folder) | (gpus.environment() if gpu else {})
    return Wrapped([python, "-I", "-S", "-B", "-c", LAUNCHER], 0, folder, python, env, is_alone=False)


def refuse_process() -> str:
    if os.environ.get(UNSAFE_VARIABLE) == "1":
        return ""
    return f"it does not isolate, and {UNSAFE_VARIABLE} is not 1"


REFUSALS: dict[str, Callable[[], str]] = {"bwrap": refuse_bwrap, "docker": refuse_docker, "process": refuse_process}
