"""The sandbox contains hostile programs: what they can't see, can't reach and can't leave behind. Real bwrap runs.

Most is asked of both starts: cold (a fresh interpreter) and warm (forked from a parent).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import graders.sandbox
from graders.sandbox import Limits, Result, SandboxError, backends, cgroup, choose_backend, health, seccomp, warm
from graders.sandbox.run import forget_trials
from tests.programs import require_program

QUICK = Limits(wall_s=10, memory_mb=256, address_space_mb=1024, processes=16, disk_mb=16, file_mb=8)
DAEMON = """import os, sys, time
if os.fork() == 0:
  os.setsid()
  if os.fork() == 0: os.execv(sys.executable, ['{mark}', '-c', 'import time; time.sleep(50)'])
  os._exit(0)"""
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def start(request, monkeypatch):
    """How the programs of a test start; with `both_starts` it runs once for each. The parent holds no torch: it is lighter."""
    require_program("bwrap")
    monkeypatch.setattr(warm, "PRELOADED", ("json",))
    START[:] = [getattr(request, "param", "cold")]


START = ["cold"]
both_starts = pytest.mark.parametrize("start", ["cold", "warm"], indirect=True)


def run(code: str, limits: Limits = QUICK, **rest: object) -> Result:
    is_warm = START == ["warm"]
    result = graders.sandbox.run({"main.py": code}, ["python", "main.py"], limits, "bwrap", warm=is_warm, **rest)  # type: ignore[arg-type]
    assert result.warm == is_warm, result.why_cold
    return result


def tells(code: str, limits: Limits = QUICK) -> str:
    """What the program printed; it must end well."""
    result = run(code, limits)
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


# --- an ordinary run ---


def test_a_program_gets_its_files_and_stdin_and_gives_files_back():
    code = "import sys\nopen('out.txt', 'w').write(open('d/in.txt').read() + sys.stdin.read())"
    files = {"main.py": code, "d/in.txt": "given "}
    result = graders.sandbox.run(files, ["python", "main.py"], QUICK, stdin=b"told", collect=("out.txt", "none.txt"))
    assert (result.exit_code, result.files, result.backend, result.network) == (0, {"out.txt": b"given told"}, "bwrap", False)


@both_starts
def test_exit_codes_and_signals_are_told_apart():
    assert run("raise SystemExit(7)").exit_code == 7
    result = run("import os\nos.kill(os.getpid(), 11)")
    assert (result.exit_code, result.signal) == (None, 11)


@both_starts
def test_time_and_memory_are_measured():
    result = run("x = bytearray(100 << 20)\nsum(range(3_000_000))")
    assert result.peak_memory_mb > 90 and result.cpu_s > 0 and result.wall_s > 0


def test_torch_can_be_imported_inside():
    assert tells("import torch\nprint(torch.ones(2).sum().item())", Limits(wall_s=60)) == "2.0"


def test_names_that_leave_the_folder_are_refused():
    for name in ("../x", "/etc/x", "a/../../x"):
        with pytest.raises(ValueError, match="must be relative"):
            graders.sandbox.run({name: ""}, ["python"], QUICK)


def test_a_command_that_does_not_exist_is_a_result():
    result = graders.sandbox.run({}, ["no-such-program"], QUICK)
    assert result.exit_code == 127 and "can't start" in result.stderr


# --- what it can't see ---


@both_starts
def test_the_environment_holds_no_secrets(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-ours")
    seen = tells("import os\nprint(open('/proc/1/cmdline').read())\nprint(dict(os.environ))")
    assert "key-of-ours" not in seen and "'OMP_NUM_THREADS': '1'" in seen


@both_starts
def test_the_first_process_gives_away_neither_environment_nor_memory():
    code = (
        "for n in ('environ', 'mem', 'fd/0', 'maps'):\n  try: open('/proc/1/' + n, 'rb').read(1); print('read', n)\n  except OSError: pass"
    )
    assert tells(code) == ""


@both_starts
def test_project_data_and_home_are_not_there(tmp_path, monkeypatch):
    secret = tmp_path / "db.sqlite3"
    secret.write_text("rows")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    places = [
        str(secret),
        str(REPO / "manage.py"),
        str(REPO / "graders"),
        str(Path.home() / ".ssh"),
        "/etc/shadow",
        "/etc/passwd",
        "/root/.bashrc",
    ]
    assert tells(f"import os\nprint([p for p in {places!r} if os.path.exists(p)])") == "[]"


@both_starts
def test_of_the_project_folder_only_the_interpreter_is_shown():
    shown = tells(f"import os\nprint(sorted(os.listdir({str(REPO)!r})) if os.path.isdir({str(REPO)!r}) else [])")
    assert shown in ("[]", f"[{Path(sys.prefix).name!r}]")


@both_starts
def test_other_processes_are_not_seen():
    assert int(tells("import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))")) == 2


@both_starts
def test_system_and_interpreter_are_read_only():
    code = (
        "import sys\nfor p in ('/usr/x', '/etc/x', '/x', '/dev/x', sys.prefix + '/lib/x', '/proc/sys/kernel/core_pattern'):\n"
        "  try: open(p, 'w'); print('wrote', p)\n  except OSError: pass"
    )
    assert tells(code) == ""


# --- network ---


@both_starts
def test_a_service_of_the_host_on_loopback_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\ntry: socket.create_connection(('127.0.0.1', {port}), 2); print('reached')\nexcept OSError as e: print('no')"
        assert tells(code) == "no"


@both_starts
def test_there_is_no_way_out_and_no_name_service():
    places = (("1.1.1.1", 53), ("8.8.8.8", 443), ("example.com", 80))
    code = f"import socket\nfor a in {places!r}:\n  try: socket.create_connection(a, 2); print('reached')\n  except OSError: pass"
    assert tells(code) == ""
    assert tells("print([l.split(':')[0].strip() for l in open('/proc/net/dev').readlines()[2:]])") == "['lo']"


@both_starts
def test_abstract_sockets_of_the_host_are_out_of_reach():
    name = f"\0touchstone-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket\ns = socket.socket(socket.AF_UNIX)\ntry: s.connect({name!r}); print('reached')\nexcept OSError: print('no')"
        assert tells(code) == "no"


# --- privileges ---


@both_starts
def test_it_has_no_capabilities_and_gains_none():
    status = tells("print(open('/proc/self/status').read())")
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert int(lines["CapEff"], 16) == 0 and int(lines["CapPrm"], 16) == 0 and lines["NoNewPrivs"].strip() == "1"
    assert lines["Seccomp"].strip() == "2"


@both_starts
def test_it_has_namespaces_of_its_own():
    kinds = ("user", "pid", "net", "ipc", "uts", "mnt")
    inside = tells(f"import os\nprint(*[os.readlink('/proc/self/ns/' + k) for k in {kinds!r}])").split()
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert not set(inside) & set(ours)


@both_starts
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have something to give up")
def test_started_by_root_it_runs_as_nobody_else_does():
    uid = int(tells("import os\nprint(os.getuid())"))
    assert uid >= 1_000_000_000 or uid == 0
    assert tells("import os\ntry: os.setuid(0); print('root')\nexcept OSError: print('no')") == "no"


# --- system calls ---

CALLS = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
def errno_of(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments, *([0] * (6 - len(arguments)))) == -1 else 0
"""


@both_starts
def test_calls_that_no_program_needs_are_refused():
    numbers = {name: columns for name, columns in seccomp.REFUSED.items()}
    code = (
        f"{CALLS}\nfor name, columns in {numbers!r}.items():\n"
        "  if columns[column] is not None and errno_of(columns[column]) != 1: print('not refused:', name)"
    )
    assert tells(code) == ""


@both_starts
def test_new_namespaces_are_refused_however_they_are_asked_for():
    code = (
        f"{CALLS}\nfor flag in (0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000, 0x7E020000):\n"
        f"  print(errno_of({seccomp.CLONE!r}[column], flag | 17), end=' ')\n"
        f"print(errno_of({seccomp.ABSENT['clone3']!r}[column], 0, 0))"
    )
    assert tells(code) == "1 1 1 1 1 1 38"


@both_starts
def test_only_plain_sockets_can_be_had():
    code = (
        "import socket\nfor kind in ((17, 3, 768), (2, 3, 1), (2, 2, 1), (38, 5, 0), (40, 1, 0), (16, 3, 9), (16, 3, 12), (2, 5, 132)):\n"
        "  try: socket.socket(*kind); print('opened', kind)\n  except OSError: pass\n"
        "s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); c.send(b'hi')\n"
        "print(s.accept()[0].recv(2), socket.if_nameindex())"
    )
    assert tells(code) == "b'hi' [(1, 'lo')]"


@both_starts
def test_typing_into_a_terminal_is_refused():
    assert tells(f"{CALLS}\nprint(errno_of({seccomp.IOCTL!r}[column], 0, 0x5412, b'x'))") == "1"


@both_starts
def test_it_can_not_get_at_another_root_or_at_the_kernels_settings():
    places = ("/proc/1/root/etc", "/proc/1/cwd", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/dev/mem", "/dev/kmsg", "/sys/kernel")
    code = (
        f"import os\nfor p in {places!r}:\n  try: os.listdir(p) if os.path.isdir(p) else open(p, 'r+'); print('reached', p)\n"
        "  except OSError: pass\ntry: os.mknod('n', 0o660 | 0o060000, os.makedev(8, 0)); print('device')\nexcept OSError: pass"
    )
    assert tells(code) == ""


@both_starts
def test_limits_can_not_be_raised():
    code = (
        "import resource as r\nfor n in ('RLIMIT_NPROC', 'RLIMIT_AS', 'RLIMIT_FSIZE', 'RLIMIT_CPU'):\n"
        "  try: r.setrlimit(getattr(r, n), (r.RLIM_INFINITY,) * 2); print('raised', n)\n  except (ValueError, OSError): pass"
    )
    assert tells(code) == ""


# --- limits ---


@both_starts
def test_a_hung_program_costs_its_limit_and_no_more():
    began = time.monotonic()
    result = run("import time\ntime.sleep(60)", Limits(wall_s=1))
    assert result.timed_out and result.limit == "wall" and time.monotonic() - began < 5


@both_starts
def test_ignoring_sigterm_helps_nothing():
    code = "import signal, time\nfor s in (15, 2, 1): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    assert run(code, Limits(wall_s=1)).timed_out


@both_starts
def test_daemons_do_not_outlive_the_run():
    mark = f"daemon-{os.getpid()}"
    code = f"{DAEMON.format(mark=mark)}\ntime.sleep(0.3)"
    began = time.monotonic()
    assert run(code).exit_code == 0 and time.monotonic() - began < 8
    alive = [p for p in Path("/proc").glob("[0-9]*/cmdline") if _holds(p, mark)]
    assert alive == []


def _holds(path: Path, mark: str) -> bool:
    try:
        return path.read_bytes().startswith(mark.encode())
    except OSError:
        return False


def test_a_daemon_is_killed_at_the_timeout_too():
    code = "import os, time\nfor _ in range(3):\n  if os.fork() == 0: os.setsid()\ntime.sleep(60)"
    began = time.monotonic()
    assert run(code, Limits(wall_s=1)).timed_out and time.monotonic() - began < 5


@both_starts
def test_a_fork_bomb_is_limited():
    began = time.monotonic()
    result = run("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", Limits(wall_s=3, processes=16))
    assert result.limit in ("processes", "wall") and time.monotonic() - began < 8


@both_starts
def test_a_memory_bomb_is_limited():
    result = run("x = []\nwhile True: x.append(bytearray(1 << 20))", Limits(wall_s=20, memory_mb=200, address_space_mb=800))
    assert result.exit_code != 0 and result.peak_memory_mb < 900


@both_starts
def test_memory_of_several_processes_counts_together():
    code = "import os, time\nfor _ in range(5): os.fork() or time.sleep(0)\nx = bytearray(60 << 20)\ntime.sleep(5)"
    assert run(code, Limits(wall_s=10, memory_mb=300, processes=64)).limit == "memory"


@both_starts
def test_memory_that_belongs_to_no_process_can_not_be_had():
    code = (
        "import ctypes, os\ntry: os.memfd_create('x'); print('memfd')\nexcept OSError: pass\n"
        "if ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) != -1: print('segment')"
    )
    assert tells(code) == ""


@both_starts
def test_memory_that_forks_share_counts_once(start):
    code = "import os, time\nx = b'x' * (100 << 20)\nfor _ in range(2): os.fork()\ntime.sleep(0.4)"
    result = run(code, Limits(wall_s=10, memory_mb=250))
    assert (result.limit, result.exit_code) == ("", 0)


@both_starts
def test_a_thread_bomb_is_limited():
    code = (
        "import threading, time\nn = 0\ntry:\n  while n < 500: threading.Thread(target=time.sleep, args=(9,), daemon=1).start(); n += 1\n"
        "except RuntimeError: pass\ntime.sleep(0.3)\nprint(n)"
    )
    result = run(code, Limits(wall_s=5, processes=16))
    assert result.limit == "processes" or int(result.stdout) <= 16


@both_starts
def test_a_program_that_stops_itself_costs_its_limit():
    assert run("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", Limits(wall_s=1)).limit == "wall"


@both_starts
def test_a_flood_on_the_result_channel_is_limited():
    result = run("import os\nwhile True: os.write(3, b'x' * 65536)", Limits(wall_s=20, output_mb=4, channel_kb=64))
    assert result.limit == "output" and len(result.channel) <= 64 * 1024


@both_starts
def test_closing_every_descriptor_breaks_nothing():
    result = run("import os\nos.closerange(0, 100)\nos._exit(5)")
    assert (result.exit_code, result.channel) == (5, b"")


@both_starts
def test_an_output_bomb_is_cut_and_its_tail_kept():
    result = run("while True: print('x' * 1000)", Limits(wall_s=20, output_mb=1, tail_kb=4))
    assert result.limit == "output" and len(result.stdout) <= 4096
    quiet = run("print('y' * 100_000)\nprint('end')", Limits(tail_kb=1))
    assert quiet.stdout.endswith("end\n") and len(quiet.stdout) == 1024 and quiet.stdout_bytes == 100_005


@both_starts
@pytest.mark.parametrize("folder", [".", "/tmp", "/dev/shm"])
def test_a_file_bomb_is_limited(folder):
    code = f"n = 0\ntry:\n  while True:\n    open({folder!r} + f'/f{{n}}', 'wb').write(b'x' * (1 << 20)); n += 1\nexcept OSError: print(n)"
    assert int(tells(code)) <= 16


@both_starts
def test_one_large_file_is_limited():
    assert run("open('f', 'wb').write(b'x' * (12 << 20))").exit_code != 0


@both_starts
def test_cpu_time_is_limited():
    result = run("while True: pass", Limits(wall_s=10, cpu_s=1))
    assert result.wall_s < 6 and result.signal is not None


@pytest.fixture
def below_a_cgroup(monkeypatch):
    """Runs get cgroups of version 2; the controllers that hold limits are not asked for, as another version may have them."""
    folder = cgroup._own()
    if folder is None or not os.access(folder, os.W_OK):
        pytest.skip("no writable cgroup of version 2")
    monkeypatch.setenv("SANDBOX_CGROUP", str(folder))
    monkeypatch.setattr(cgroup, "NEEDED", frozenset())
    cgroup.home.cache_clear()
    cgroup.remove_left_over.cache_clear()
    yield folder
    monkeypatch.undo()
    cgroup.home.cache_clear()


@both_starts
def test_where_cgroups_can_be_made_each_run_has_its_own_and_it_is_gone_afterwards(below_a_cgroup):
    code = "import os\nif os.fork() == 0: import time; time.sleep(60)\nprint(open('/proc/self/cgroup').read())"
    before = set(os.listdir(below_a_cgroup))
    result = run(code)
    assert result.cgroup and "0::/" in result.stdout and "sandbox-" in result.stdout.split("0::")[1]
    assert set(os.listdir(below_a_cgroup)) - before == set()


def test_the_cgroup_of_a_grader_that_was_killed_is_gone_when_the_next_one_starts_and_those_in_use_stay(below_a_cgroup):
    made = "from graders.sandbox import Limits, cgroup\ncgroup.NEEDED = frozenset()\nmade = cgroup.cgroup_of(Limits())\n"
    command = [sys.executable, "-c", f"{made}print(made.__enter__().folder.name, flush=True)\nimport time; time.sleep(60)"]
    killed, alive = (subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        names = [process.stdout.readline().strip() for process in (killed, alive) if process.stdout]
        killed.kill()
        killed.wait()
        assert run("print(1)").cgroup
        assert [name in os.listdir(below_a_cgroup) for name in names] == [False, True]
    finally:
        alive.kill()
        alive.wait()
        cgroup.remove_left_over.cache_clear()
        cgroup.remove_left_over(below_a_cgroup)
    assert not set(names) & set(os.listdir(below_a_cgroup))


# --- results ---


@both_starts
def test_links_pipes_and_large_files_are_not_results():
    code = (
        "import os\nopen('sparse', 'wb').truncate(1 << 22)\nos.symlink('/proc/self/status', 'link')\nos.mkfifo('pipe')\nos.mkdir('dir')\n"
        "open('real', 'w').write('x')\nos.link('real', 'hard')\nos.symlink('/etc', 'd')\n"
        "open('big', 'wb').write(b'x' * (3 << 20))\nopen('ok', 'w').write('fine')"
    )
    names = ("sparse", "link", "pipe", "dir", "hard", "d/ld.so.cache", "big", "ok")
    result = run(code, Limits(collect_mb=2), collect=names)
    assert result.files == {"ok": b"fine"}


@both_starts
def test_what_it_prints_is_no_report():
    result = run("import json\nprint(json.dumps({'exit_code': 0, 'files': {'ok': ''}}))\nraise SystemExit(3)")
    assert result.exit_code == 3 and result.files == {}


@both_starts
def test_it_can_not_kill_or_trace_the_first_process():
    code = (
        "import os, ctypes\nfor s in (9, 15, 19, 11):\n  try: os.kill(1, s)\n  except OSError: pass\n"
        "print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))\nos.kill(-1, 15)"
    )
    assert run(code).stdout in ("-1\n", "")


@both_starts
def test_two_runs_share_nothing():
    run("open('/tmp/left', 'w').write('x')\nopen('left', 'w').write('x')")
    assert tells("import os\nprint(os.path.exists('/tmp/left'), os.path.exists('left'))") == "False False"


@both_starts
def test_runs_in_threads_are_independent():
    seen: list[str] = []
    threads = [threading.Thread(target=lambda n=n: seen.append(tells(f"print({n})"))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == ["0", "1", "2", "3"]


# --- choosing a backend ---


@pytest.fixture
def no_programs(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ALLOW_UNSAFE_SANDBOX", raising=False)
    forget_trials()
    yield
    monkeypatch.undo()
    forget_trials()


def test_without_a_backend_the_error_says_what_to_install(no_programs):
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        choose_backend()
    assert health()["backend"] is None and "bubblewrap is not installed" in health()["refused"]["bwrap"]


def test_the_process_backend_refuses_unless_it_is_allowed(no_programs, monkeypatch):
    with pytest.raises(SandboxError, match="ALLOW_UNSAFE_SANDBOX"):
        choose_backend("process")
    monkeypatch.setenv("ALLOW_UNSAFE_SANDBOX", "1")
    assert choose_backend() == "process"
    result = graders.sandbox.run({"m.py": "print('hi')"}, ["python", "m.py"], QUICK)
    assert (result.stdout, result.backend, health()["safe"]) == ("hi\n", "process", False)
    assert result.network is True


def test_the_process_backend_kills_what_is_left(no_programs, monkeypatch):
    monkeypatch.setenv("ALLOW_UNSAFE_SANDBOX", "1")
    mark = f"left-{os.getpid()}"
    code = f"{DAEMON.format(mark=mark)}\ntime.sleep(0.3)"
    graders.sandbox.run({"m.py": code}, ["python", "m.py"], QUICK)
    assert [p for p in Path("/proc").glob("[0-9]*/cmdline") if _holds(p, mark)] == []


def test_programs_find_libraries_by_the_linkers_cache():
    code = "import subprocess; print(subprocess.run(['/sbin/ldconfig', '-p'], capture_output=True, text=True).stdout)"
    for is_warm in (False, True):
        assert "libc.so.6" in graders.sandbox.run({"m.py": code}, ["python", "m.py"], QUICK, warm=is_warm).stdout


def test_docker_is_called_without_network_rights_or_room(monkeypatch):
    monkeypatch.setenv("SANDBOX_GPUS", "all")
    limits = Limits(memory_mb=100, processes=8, disk_mb=5)
    call = " ".join(backends.wrap_docker(limits, "image", "name", gpu=True).argv)
    for words in ("--network none", "--read-only", "--cap-drop ALL", "no-new-privileges", "--user 65534", "--pids-limit 16"):
        assert words in call
    assert "--memory 164m" in call and "--memory-swap 164m" in call and "--gpus all" in call and "size=5m" in call
    assert "--gpus" not in backends.wrap_docker(limits, "image", "name").argv


def test_an_unknown_backend_is_named_with_those_allowed():
    with pytest.raises(SandboxError, match="allowed: auto, bwrap, docker, process"):
        choose_backend("vm")


def test_health_names_the_backend_and_why_not_the_others():
    found = health()
    assert found["backend"] == "bwrap" and found["safe"] and "docker" in found["refused"]
