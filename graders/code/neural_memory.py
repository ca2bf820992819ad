"""neural_memory: decides the six criteria by running the submission and reading the data flow of its forward pass.

The program runs in a sandbox with a probe beside it (probes/neural_memory_probe.py), which logs every tensor operation
of a training forward pass at two sizes, finds the chain of memory states, and runs parts of the log again with values
replaced: what is written when the old state is zero, whether the write vanishes with a gate, what the gate feels, which
parameters scale what is carried, what is left of the memory when the blend's gate is at one end. Names, comments and
style have no part in it.

What can't be told for sure is `undecided` with the reason. torch.compile compiles nothing here. Probe and submission
share a process: a program that uses means to alter its own trace (frames, ctypes, exec) is given no pass, but is not
proven guilty either.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from graders.code import sha256_of_files
from graders.code.channel import PROBES, Answer, ask_probe
from graders.code.scores import decided, scored, unscored, without_report, wrong_fields, wrong_lines
from graders.code.source import Source, asks_for_its_names, doubts, read_source
from graders.grade import CriterionScore, Evidence, Grade, grade_of
from graders.sandbox import Limits
from tasks.task import Criterion, Task

PROBE = "neural_memory_probe.py"
PARTS = ("chain", "facts", "writes", "fusion", "course")
BESIDE = (
    "trial",
    "another_day",
    "hidden_flow",
    "threads",
    "plain_host",
    "thresholds",
    "comparisons",
    "modes",
    "repair",
    "error_lines",
    "lenient",
    "missing_names",
    "absent",
    "einops_stand_in",
    "unseen",
    "guard",
    "names",
    "asked",
    "seal",
)
MODULES = tuple(f"{name}.py" for name in ("oplog", "ops", "replay", "gates", "verdicts", *(f"memory_{part}" for part in PARTS), *BESIDE))
KEYS = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")
CATEGORIES = ("kv_cache", "not_recurrent", "residual_fusion", "concat_fusion", "generic_gate", "fixed_decay")  # the first that fits
TIMEOUT_S = 120.0  # 512 channels in six layers take a quarter of it on a busy machine
COURSE = ("state_norm", "write_gate", "blend_gate")  # series over the tokens
# Why no pass is given, and what to change
ALTERS = (
    "with which a program can alter its own trace, so no pass is given: take it out; what only the script itself needs may stand under"
    " `if __name__ == '__main__':`"
)
REPLACED = "its trace can't be relied on, so no pass is given: leave that as it is, and give what is yours a name of its own"
SAYS = {"yes": True, "no": False, "undecided": None}


class NeuralMemoryGrader:
    """Runs, traces, decides. `timeout_s` bounds the sandboxed run, torch's import included."""

    name = "neural_memory"
    version = "1"
    kind = "code"
    runs_code = True
    tasks = ("neural_memory",)

    @cached_property
    def sha256(self) -> str:
        here = Path(__file__).parent
        ours = [here / name for name in ("neural_memory.py", "channel.py", "scores.py", "source.py", "plain_parts.py")]
        return sha256_of_files(*ours, *(PROBES / name for name in (PROBE, *MODULES)))

    def criteria(self, task: str) -> tuple[str, ...]:
        return KEYS

    def grade(
        self,
        task: Task,
        source: str,
        *,
        timeout_s: float | None = None,
        backend: str = "auto",
        on_progress: Callable[[str], None] | None = None,
    ) -> Grade:
        """Grade one submission. Raises SandboxError when there is no sandbox to run it in."""
        tell = on_progress or (lambda stage: None)
        text = read_source(source)
        tell("starting the sandbox")
        tell("running and tracing the forward pass")
        answer = ask(text, timeout_s or TIMEOUT_S, backend)
        tell("deciding the criteria")
        return self._grade_of(task, text, answer)

    def _grade_of(self, task: Task, text: Source, answer: Answer) -> Grade:
        facts, result = answer.facts and {**answer.facts, "doubts": answer.doubts}, answer.result
        runs, error, category = _run_facts(answer)
        rows = [_score(c, text, facts, runs, answer.odd) for c in task.rubric.criteria]
        if facts and runs and not category:
            category = _category(facts, rows)
        return grade_of(
            task.slug,
            task.rubric,
            rows,
            runs=runs,
            failure_category=category,
            error=error,
            duration_s=result.wall_s,
            peak_memory_mb=result.peak_memory_mb,
            grader={"name": self.name, "version": self.version, "sha256": self.sha256},
            sandbox=result.facts(),
            stdout=result.stdout,
            stderr=result.stderr,
            course=dict(facts["course"]) if facts else {},
        )


def ask(text: Source, timeout_s: float, backend: str) -> Answer:
    """What the probe says of it, and what came over the channel before."""
    order = {"asks_for_its_names": asks_for_its_names(text)}
    return ask_probe(PROBE, MODULES, text.text, check=check_report, limits=Limits(wall_s=timeout_s), backend=backend, order=order)


# --- the report -------------------------------------------------------------------------------------------


def check_report(report: Mapping[str, Any]) -> str:
    """What is wrong with a report, or "". Strict: fields, types and sizes."""
    told = (str, type(None))
    fields = {
        "runs": bool,
        "error": told,
        "verdicts": dict,
        "tampered": list,
        "replaced": list,
        "trace_error": told,
        "n_parameters": int,
        "course": dict,
    }
    if wrong := wrong_fields(report, fields):
        return wrong
    if not all(isinstance(name, str) for name in (*report["tampered"], *report["replaced"])):
        return "tampered holds other than names"
    if not _is_course(report["course"]):
        return "course is not series of numbers"
    verdicts = report["verdicts"]
    if set(verdicts) not in (set(), set(KEYS)):
        return "verdicts are not the six criteria"
    return next((f"{key}: {wrong}" for key, v in verdicts.items() if (wrong := _check_verdict(v))), "")


def _is_course(course: Mapping[str, Any]) -> bool:
    if not set(course) <= set(COURSE):
        return False
    return all(isinstance(s, list) and len(s) <= 64 and all(type(x) in (int, float) and abs(x) < 1e12 for x in s) for s in course.values())


def _check_verdict(verdict: Any) -> str:
    if not isinstance(verdict, dict) or set(verdict) != {"says", "text", "lines", "category"}:
        return "not a verdict"
    if verdict["says"] not in SAYS or verdict["category"] not in ("", *CATEGORIES):
        return "unknown word"
    if not isinstance(verdict["text"], str) or len(verdict["text"]) > 4000:
        return "text too long"
    return wrong_lines(verdict["lines"])


def _run_facts(answer: Answer) -> tuple[bool | None, str | None, str]:
    """(runs, the submission's error, failure category)."""
    if answer.facts is None:
        return without_report(answer)
    return bool(answer.facts["runs"]), answer.facts["error"], "" if answer.facts["runs"] else "crash"


# --- one criterion ----------------------------------------------------------------------------------------


def _score(criterion: Criterion, text: Source, facts: Mapping[str, Any] | None, runs: bool | None, odd: str) -> CriterionScore:
    if runs is None:
        return unscored(criterion, odd, "sandbox_error")
    verdict = facts["verdicts"].get(criterion.key) if facts else None
    if verdict is None and not runs:
        return _from_source(criterion, text)
    assert facts is not None
    if verdict is None:
        why = facts["trace_error"] or "the trace says nothing about it"
        return unscored(criterion, f"the program runs, but could not be traced: {why}", "undecided")
    passed = SAYS[verdict["says"]]
    evidence = tuple(Evidence(text.line(n), "trace", n, n) for n in verdict["lines"])
    return scored(criterion, passed, verdict["text"], evidence, _doubt(text, facts) if passed else "")


def _doubt(text: Source, facts: Mapping[str, Any]) -> str:
    """Why no pass can be read from this program's trace, or "".

    Whoever alters the trace does it to have all criteria: where one fails all the same, the program fails, and what was
    seen of the others stands. Only what the probe itself stands on must be as it was.
    """
    if facts["tampered"]:
        return f"the program replaced {facts['tampered'][0]}: {REPLACED}"
    if any(v["says"] == "no" for v in facts["verdicts"].values()):
        return ""
    if facts["doubts"]:
        return f"{facts['doubts'][0]}, {ALTERS}"
    if facts["replaced"]:
        return f"the program replaced {facts['replaced'][0]}: {REPLACED}"
    if not facts["runs"]:  # it does not pass, and one that alters its trace would see to that it runs
        return ""
    if found := doubts(text, heard=True):
        return f"line {found[0].line} uses {found[0].text}, {ALTERS}"
    return ""


def _from_source(criterion: Criterion, text: Source) -> CriterionScore:
    """A submission that does not run: only what its text settles."""
    why = ""
    if criterion.key == "memory_class" and text.tree is not None and not text.mentions("NeuralMemory"):
        why = "the file defines no class NeuralMemory"
    elif _is_stub(text):
        why = "NeuralMemory is a stub: nothing in it computes anything"
    if why:
        return decided(criterion, False, why)
    return unscored(criterion, "the program does not run, and its text does not settle this", "does_not_run")


def _is_stub(text: Source) -> bool:
    """Does the one class NeuralMemory have methods that do nothing?"""
    classes = [n for n in ast.walk(text.tree) if isinstance(n, ast.ClassDef) and n.name == "NeuralMemory"] if text.tree else []
    methods = [m for c in classes for m in c.body if isinstance(m, ast.FunctionDef) and m.name != "__init__"]
    plain = all(isinstance(b, ast.Attribute | ast.Name) for c in classes for b in c.bases)
    return bool(methods) and plain and all(_does_nothing(statement) for m in methods for statement in m.body)


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Return):
        return statement.value is None or isinstance(statement.value, ast.Name | ast.Constant)
    return isinstance(statement, ast.Pass | ast.Raise) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def _category(facts: Mapping[str, Any], rows: list[CriterionScore]) -> str:
    failed = {row.key for row in rows if row.passed is False}
    named = {v["category"] for key, v in facts["verdicts"].items() if key in failed}
    return next((c for c in CATEGORIES if c in named), "")
