"""run_code: a tool for agents of code tasks that runs a Python program in the sandbox. Handed down to tasks/agent.py."""

from __future__ import annotations

from graders import sandbox
from graders.sandbox.result import Limits, Result
from tasks.tools.errors import ToolError
from tasks.tools.tool import Tool

LIMITS = Limits(wall_s=60, memory_mb=4096)
SHOWN_CHARS = 8_000


def run_code_tool(limits: Limits = LIMITS, backend: str = "auto", *, warm: bool = True) -> Tool:
    """`warm`: start from a parent that has torch imported, where that can be done."""
    what = (
        f"Run a Python program (torch is there, no network) and see what it prints. At most {limits.wall_s:g} seconds and "
        f"{limits.memory_mb} MB. Each run starts in an empty folder."
    )

    def run(code: str) -> str:
        try:
            result = sandbox.run({"main.py": code}, ["python", "main.py"], limits, backend, warm=warm)
        except sandbox.SandboxError as error:
            raise ToolError(f"no code can be run here: {error}") from error
        return _told(result)

    return Tool("run_code", what, {"code": "the whole program"}, run, limits={"code": 200_000})


def _told(result: Result) -> str:
    ended = f"stopped at its limit of {result.limit}" if result.limit else f"exit code {result.exit_code}"
    if result.signal:
        ended = f"killed by signal {result.signal}"
    parts = [f"{ended}, {result.wall_s:.1f} s, {result.peak_memory_mb:.0f} MB"]
    parts += [f"{name}:\n{text[-SHOWN_CHARS:]}" for name, text in (("stdout", result.stdout), ("stderr", result.stderr)) if text.strip()]
    return "\n\n".join(parts)
