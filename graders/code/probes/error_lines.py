"""Where in a submission an error was raised. Runs INSIDE the sandbox, in every probe.

By hand: code that a program made itself may have no lines, at which the traceback module breaks.
"""

from __future__ import annotations

from types import TracebackType


def steps_in(path: str, trace: TracebackType | None) -> list[TracebackType]:
    """The steps of a traceback that lie in the submission and have a line, the innermost first."""
    steps: list[TracebackType] = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path and trace.tb_lineno:
            steps.insert(0, trace)
        trace = trace.tb_next
    return steps


def line_in(path: str, trace: TracebackType | None) -> int:
    """The innermost line of the submission in a traceback, or 0."""
    return next((step.tb_lineno for step in steps_in(path, trace)), 0)


def place_in(path: str, trace: TracebackType | None) -> str:
    """The same as words to be put after an error's, or nothing."""
    return f" (line {line})" if (line := line_in(path, trace)) else ""
