"""Read a paper's file in a process of its own, with limits: its parsers meet whatever someone uploaded.

`python -m tasks.tools.extract KIND < file` is that process. It sees no environment of ours, and it can use only so much time and
memory. It is not the sandbox: it runs no code of the file, only parsers.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tasks.tools.errors import ExtractError
from tasks.tools.sections import Parts

KINDS = ("latex", "html", "pdf")
WALL_S, CPU_S, MEMORY_BYTES = 120, 90, 2 << 30
ROOT = Path(__file__).parents[2]


def extract(kind: str, data: bytes) -> Parts:
    """Abstract, introduction, results and full text. Raises ExtractError saying what is wrong with the file."""
    command = [sys.executable, "-m", "tasks.tools.extract", kind]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=WALL_S, cwd=ROOT, env={}, check=False)
    except subprocess.TimeoutExpired:
        raise ExtractError(f"reading the {kind} file took longer than {WALL_S} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise ExtractError(f"the {kind} file took too much time or memory, or broke the reader ({ended})") from None
    if "error" in answer:
        raise ExtractError(str(answer["error"]))
    return Parts(**answer)


def main(kind: str) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        print(json.dumps(asdict(_read(kind, sys.stdin.buffer.read()))))
    except ExtractError as error:
        print(json.dumps({"error": str(error)}))
    except (MemoryError, RecursionError) as error:
        print(json.dumps({"error": f"the {kind} file is too large or too deeply nested ({type(error).__name__})"}))
    return 0


def _read(kind: str, data: bytes) -> Parts:
    # Only the reader that is needed: each takes a moment to import.
    if kind == "latex":
        from tasks.tools.archive import read_source  # noqa: PLC0415
        from tasks.tools.latex import parts_of_latex  # noqa: PLC0415

        return parts_of_latex(read_source(data))
    if kind == "html":
        from tasks.tools.html import parts_of_html  # noqa: PLC0415

        return parts_of_html(data)
    from tasks.tools.pdf import parts_of_pdf  # noqa: PLC0415

    return parts_of_pdf(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
