"""Running a probe beside a submission and reading its report over a channel that names the run by a nonce.

The probe gets the nonce on stdin before the submission is loaded, and writes one JSON object to descriptor 3.
What does not parse, does not repeat the nonce or does not fit its schema is no report. Before the report may stand lines
`{"doubt": "line 3 uses sys._getframe"}`, written at once when the program took a step towards the probe (probes/seal.py):
they name no nonce, as a program can only harm itself with them.
"""

from __future__ import annotations

import hmac
import importlib.util
import json
import os
import py_compile
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from graders import sandbox
from graders.sandbox import Limits, Result

PROBES = Path(__file__).parent / "probes"
FORGED = ("what came over the result channel", "the report does not come from the probe")  # nobody but the program can have done it
FOR_TRAINING = ("torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "torch._dynamo")


@dataclass(frozen=True)
class Answer:
    """`facts` when the probe reported; else `silent` (it never did: crash, exit, limit) or `odd` (what came is not a report)."""

    result: Result
    facts: Mapping[str, Any] | None
    odd: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        return self.facts is None and not self.odd


def ask_probe(
    probe: str,
    modules: tuple[str, ...],
    source: str,
    *,
    check: Callable[[Mapping[str, Any]], str],
    limits: Limits,
    backend: str,
    preload: Sequence[str] = (),
    order: Mapping[str, Any] | None = None,
    name: str = "submission.py",
    on_gpu: bool = False,
) -> Answer:
    """Run probes/<probe> on `source` in a sandbox. `check` says what is wrong with a report, or "".

    `preload`: what the probe imports beside torch; probes with the same share a warm parent. `order`: what else it is told.
    `name`: of the submission's file, where a program may ask for its own. `on_gpu`: with the GPUs of this machine.
    """
    nonce = secrets.token_hex(32)
    # no name there tells a submission that looks around where it runs
    files: dict[str, bytes | str] = {f"run/{name}": (PROBES / name).read_bytes() for name in modules}
    files["run/main.py"] = (PROBES / probe).read_bytes()
    files |= {f"run/{_cached_name(name)}": _compiled(PROBES / name, (PROBES / name).stat().st_mtime_ns) for name in modules}
    files[name] = source
    told = json.dumps({**(order or {}), "nonce": nonce, "path": name}).encode()
    command = ["python", "-B", "run/main.py"]
    result = sandbox.run(files, command, limits, backend, stdin=told, warm=True, preload=preload, on_gpu=on_gpu)
    if not result.channel:
        return Answer(result, None)
    return _read(result, nonce, check)


def _cached_name(name: str) -> str:
    return os.path.relpath(importlib.util.cache_from_source(name))


@lru_cache(maxsize=64)
def _compiled(path: Path, changed: int) -> bytes:
    """What the interpreter would cache of a module, so that no run pays for compiling it. `changed` keys the cache."""
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "module.pyc")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), cfile=target, dfile=path.name, doraise=True, invalidation_mode=mode)
        return Path(target).read_bytes()


def _read(result: Result, nonce: str, check: Callable[[Mapping[str, Any]], str]) -> Answer:
    rows = [_parsed(line) for line in result.channel.splitlines()]
    doubts = tuple(str(row["doubt"])[:300] for row in rows if isinstance(row, dict) and set(row) == {"doubt"})
    if len(doubts) == len(rows):
        return Answer(result, None, doubts=doubts)
    report = rows[-1]
    if len(doubts) < len(rows) - 1 or not isinstance(report, dict):
        return Answer(result, None, "what came over the result channel is not one JSON report", doubts)
    if not hmac.compare_digest(str(report.pop("nonce", "")).encode(), nonce.encode()):
        return Answer(result, None, "the report does not come from the probe", doubts)
    if result.limit or result.signal or result.exit_code:
        return Answer(result, None, "the probe reported and then did not end as it does", doubts)
    if wrong := check(report):
        return Answer(result, None, f"the report does not fit its schema: {wrong}", doubts)
    return Answer(result, report, doubts=doubts)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _no_constant(text: str) -> None:
    raise ValueError(text)
