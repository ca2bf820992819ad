"""memory_optimization: decides the eighteen techniques by running the program and seeing which of them take effect.

The program runs as `python train.py --steps 6` on a pretended GPU (probes/pretend_gpu.py) with a probe beside it that
follows every forward pass, backward pass, update and copy (probes/training_log.py). The peak of its GPU memory is
measured by the same means as the starter's. Imports, flags, comments and what is done on a decoy have no part in it.
Where this machine has a GPU, the program is run on it too (on_gpu.py), and the grade keeps its true peak.

Not covered: custom kernels, CUDA graphs and streams, what torch.compile itself saves, packages that are not installed.
Probe and submission share a process: a program that uses means to alter what is seen of it is given no pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from graders import sandbox
from graders.code import on_gpu, sha256_of_files
from graders.code.channel import FOR_TRAINING, PROBES, Answer, ask_probe
from graders.code.probes.asked_names import reaching_words
from graders.code.scores import decided, scored, unscored, without_report, wrong_fields, wrong_lines
from graders.code.source import Source, read_source
from graders.code.unasked import unasked
from graders.grade import CriterionScore, Evidence, Grade, grade_of
from graders.sandbox import Limits
from tasks.task import Criterion, Task

PROBE = "memory_optimization_probe.py"
MODULES = tuple(f"{name}.py" for name in (
    "absent", "asked_names", "surroundings", "plain_host", "across", "pretend_gpu", "training_calls", "training_passes", "gradient_paths",
    "freed_tensors", "known_parameters", "training_log", "training_hooks", "memory_techniques", "program_text",
    "calls_as_meant", "guard", "missing_names", "error_lines", "seal",
))  # fmt: skip
KEYS = (
    "mixed_precision_autocast", "grad_scaler_or_bf16", "gradient_checkpointing", "gradient_accumulation", "zero_grad_set_to_none",
    "no_grad_eval", "sdpa_flash_attention", "low_memory_optimizer", "cpu_offload", "torch_compile", "in_place_ops", "del_and_empty_cache",
    "channels_last", "activation_offload", "param_dtype_bf16", "loss_item_detach", "pinned_memory_nonblocking", "chunked_loss",
)  # fmt: skip
FIGURES = ("peak_mb", "n_parameters", "samples", "passes", "pixels", "tokens", "last_loss")
FINAL_LOSS = re.compile(r"^final loss: *([-+\w.]+)", re.MULTILINE)
TIMEOUT_S = 120.0
LIMITS = Limits(wall_s=TIMEOUT_S, processes=64, memory_mb=6144)
# Of the starter's parameters, and of its samples: fewer of these, as some count micro-batches as steps.
LEAST_PARAMETERS, LEAST_SAMPLES, LEAST_OF_A_SAMPLE = 0.9, 0.2, 0.9
MAY_RISE = 0.5
MOST_MENDS = 2


class MemoryOptimizationGrader:
    """Runs, watches, decides. `timeout_s` bounds the sandboxed run."""

    name = "memory_optimization"
    version = "1"
    kind = "code"
    runs_code = True
    tasks = ("memory_optimization",)

    @cached_property
    def sha256(self) -> str:
        here = Path(__file__).parent
        ours = [here / name for name in ("memory_optimization.py", "on_gpu.py", "channel.py", "scores.py", "source.py", "unasked.py")]
        return sha256_of_files(*ours, *(PROBES / name for name in (PROBE, *MODULES, on_gpu.PROBE)))

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
        starter = starter_figures(task.starter, backend)
        tell("running it on a pretended GPU")
        answer = _helped(source, timeout_s or TIMEOUT_S, backend)
        tell("deciding the techniques")
        text = read_source(source)
        if _would_pass(task, answer.facts, _run_facts(answer)[0]) and _doubt(text, answer, enough=True):
            answer = _either_way(text, answer, timeout_s or TIMEOUT_S, backend)
        grade = self._grade_of(task, text, answer, starter)
        if answer.result.timed_out or not sandbox.has_gpu(backend):
            return grade
        tell("running it on the GPU")
        return beside_gpu(task, grade, on_gpu.run(source, task.starter, backend))

    def _grade_of(self, task: Task, text: Source, answer: Answer, starter: Mapping[str, float]) -> Grade:
        result, facts = answer.result, answer.facts
        runs, error, category = _run_facts(answer)
        other = _not_the_training(facts["figures"], starter, result.stdout) if facts and runs else ""
        enough = _would_pass(task, facts, runs) and not other
        rows = [_score(c, text, answer, runs, error, enough=enough) for c in task.rubric.criteria]
        grade = grade_of(
            task.slug,
            task.rubric,
            rows,
            runs=runs,
            failure_category=category or ("not_trained" if other else ""),
            error=error or other or None,
            duration_s=result.wall_s,
            peak_memory_mb=result.peak_memory_mb,
            grader={"name": self.name, "version": self.version, "sha256": self.sha256},
            sandbox={**result.facts(), **_seen(facts, starter)},
            stdout=result.stdout,
            stderr=result.stderr,
        )
        # Six techniques on less than the starter's training are no saving.
        if other:
            return replace(grade, passed=False)
        return replace(grade, failure_category="too_few_optimizations") if runs and grade.passed is False else grade


@lru_cache(maxsize=4)
def starter_figures(starter: str, backend: str) -> Mapping[str, float]:
    """The starter's own figures, measured once: its peak, parameters, samples. Empty if it could not be run."""
    answer = _ask(starter, TIMEOUT_S, backend)
    return answer.facts["figures"] if answer.facts else {}


def _helped(source: str, timeout_s: float, backend: str) -> Answer:
    """The run; one that an error ends is run again and helped past it, to see what else is in the program. The error stands."""
    stopped: list[tuple[str, int, list[int]]] = []
    first = answer = _ask(source, timeout_s, backend)
    while answer.facts and answer.facts["stopped"] and len(stopped) < MOST_MENDS:
        stopped.append((answer.facts["error"], answer.facts["stopped"], answer.facts["span"]))
        again = _ask(source, timeout_s, backend, stopped)
        if again.facts is None or again.facts["span"] in [span for *_, span in stopped]:
            break
        answer = again
    if answer is first or not answer.facts or not first.facts:
        return first
    heard = {name: [*first.facts[name], *answer.facts[name]] for name in ("tampered", "asked")}
    facts = {**answer.facts, "runs": False, "error": first.facts["error"], **heard}
    return replace(first, facts=facts, doubts=(*first.doubts, *answer.doubts))


def _either_way(text: Source, answer: Answer, timeout_s: float, backend: str) -> Answer:
    """What is in effect whatever the program is told where it asks for who watches; the answer as it was if that can't be had."""
    assert answer.facts is not None
    told = (*answer.doubts, *answer.facts["asked"])
    lines = {int(n) for words in told for n in re.findall(r"line (\d+)", words)} | {line for line, _ in reaching_words(text.tree)}
    verdicts = dict(answer.facts["verdicts"])
    for reply in (True, False):
        changed = None if answer.facts["tampered"] else unasked(text.text, lines, answer=reply)
        if changed is None or any(reaching_words(read_source(changed).tree)):
            return answer
        other = _ask(changed, timeout_s, backend)
        if other.facts is None or other.doubts or other.facts["asked"] or other.facts["tampered"] or not other.facts["verdicts"]:
            return answer
        for key, verdict in other.facts["verdicts"].items():
            if verdict["says"] == "no" and verdicts[key]["says"] == "yes":
                verdicts[key] = {**verdict, "text": f"not where nobody watches: {verdict['text']}"[:4000], "lines": []}
    return replace(answer, doubts=(), facts={**answer.facts, "verdicts": verdicts, "asked": [], "settled": True})


def _ask(source: str, timeout_s: float, backend: str, stopped: Sequence[tuple[str, int, list[int]]] = ()) -> Answer:
    limits, order = replace(LIMITS, wall_s=timeout_s), {"stopped": list(stopped)}
    return ask_probe(
        PROBE, MODULES, source, check=check_report, limits=limits, backend=backend, preload=FOR_TRAINING, order=order, name="train.py"
    )


# --- the report ---


def check_report(report: Mapping[str, Any]) -> str:
    """What is wrong with a report, or "". Strict: fields, types and sizes."""
    told = (str, type(None))
    fields = {
        "runs": bool,
        "error": told,
        "option_gone": str,
        "stopped": int,
        "span": list,
        "verdicts": dict,
        "tampered": list,
        "asked": list,
        "trace_error": told,
        "figures": dict,
    }
    if wrong := wrong_fields(report, fields):
        return wrong
    if not all(isinstance(name, str) for name in (*report["tampered"], *report["asked"])):
        return "tampered or asked holds other than names"
    if len(report["span"]) > 4 or not all(type(n) is int and 0 <= n < 1_000_000 for n in report["span"]):
        return "odd span"
    figures = report["figures"]
    if set(figures) not in (set(), set(FIGURES)) or not all(isinstance(v, (int, float)) for v in figures.values()):
        return "odd figures"
    verdicts = report["verdicts"]
    if set(verdicts) not in (set(), set(KEYS)):
        return "verdicts are not the eighteen criteria"
    return next((f"{key}: {wrong}" for key, v in verdicts.items() if (wrong := _check_verdict(v))), "")


def _check_verdict(verdict: Any) -> str:
    if not isinstance(verdict, dict) or set(verdict) != {"says", "text", "lines"}:
        return "not a verdict"
    if verdict["says"] not in ("yes", "no") or not isinstance(verdict["text"], str) or len(verdict["text"]) > 4000:
        return "odd words"
    return wrong_lines(verdict["lines"])


def _run_facts(answer: Answer) -> tuple[bool | None, str | None, str]:
    """(does it run to its end, why not, failure category)."""
    facts = answer.facts
    if facts is None:
        return without_report(answer)
    if not facts["runs"]:
        return False, facts["error"], "wrong_autocast_api" if "autocast" in str(facts["error"]) else "crash"
    why = _not_the_contract(answer.result.stdout)
    return not why, why or None, "crash" if why else ""


def _not_the_contract(stdout: str) -> str:
    told = FINAL_LOSS.findall(stdout)
    if not told:
        return "it ends without the line `final loss: X`"
    try:
        value = float(told[-1])
    except ValueError:
        value = math.nan
    return "" if math.isfinite(value) else f"its final loss is {told[-1]}"


def _not_the_training(figures: Mapping[str, float], starter: Mapping[str, float], stdout: str) -> str:
    """Why what ran is not the starter's training, or ""."""
    if not figures or not starter:
        return ""  # that nothing is trained stands in the verdicts
    if figures["n_parameters"] < LEAST_PARAMETERS * starter["n_parameters"]:
        return f"it trains {figures['n_parameters']:,.0f} parameters, the starter {starter['n_parameters']:,.0f}"
    if figures["samples"] < LEAST_SAMPLES * starter["samples"]:
        return f"it trains on {figures['samples']:.0f} samples in six steps, the starter on {starter['samples']:.0f}"
    if figures["passes"] < starter["passes"]:
        return f"it makes {figures['passes']:.0f} training passes in six steps, the starter {starter['passes']:.0f}"
    for part in ("pixels", "tokens"):
        seen, meant = figures[part] / max(figures["samples"], 1), starter[part] / starter["samples"]
        if 0 < seen < LEAST_OF_A_SAMPLE * meant:
            return f"it trains on {seen:.0f} {part} of a sample, the starter on {meant:.0f}"
    if (last := float(FINAL_LOSS.findall(stdout)[-1])) > starter["last_loss"] + MAY_RISE:
        return f"its final loss is {last:.2f}, the starter's {starter['last_loss']:.2f}"
    return ""


def beside_gpu(task: Task, grade: Grade, run: on_gpu.GpuRun) -> Grade:
    """The grade with the run on a real GPU in it; neither pass nor fail where the two differ in whether the program trains there."""
    grade = replace(grade, sandbox={**grade.sandbox, "gpu_run": run.facts()})
    enough = sum(row.passed is True for row in grade.criteria) >= (task.rubric.min_passed or 0)
    why = f"it ends with {run.error}" if run.error else _not_the_contract(run.stdout)
    if not why and not run.peak_mb:
        why = "it runs to its end and uses none of the GPU's memory"
    if run.says is None or not enough or grade.runs is not bool(why) or "option_gone" in grade.sandbox:
        return grade  # that an option is missing is shown by no run without it
    here = f"it ends with {grade.error}" if grade.error else "it runs to its end"
    told = f"on the pretended GPU {here}, on {run.device} {why or 'it runs to its end'}"
    return replace(grade, passed=None, runs=None, failure_category="", error=told)


def _seen(facts: Mapping[str, Any] | None, starter: Mapping[str, float]) -> dict[str, Any]:
    """What a grade keeps of what the probe saw: the measured GPU memory, and an option of the starter's that is missing."""
    gone = {"option_gone": facts["option_gone"]} if facts and facts["option_gone"] else {}
    if not facts or not facts["figures"]:
        return gone
    return {
        **gone,
        "gpu": "pretended",
        "gpu_peak_mb": round(facts["figures"]["peak_mb"], 1),
        "starter_gpu_peak_mb": round(starter.get("peak_mb", 0), 1),
    }


# --- one criterion ---


def _would_pass(task: Task, facts: Mapping[str, Any] | None, runs: bool | None) -> bool:
    met = [v for v in facts["verdicts"].values() if v["says"] == "yes"] if facts else []
    return runs is True and len(met) >= (task.rubric.min_passed or 0)


def _score(criterion: Criterion, text: Source, answer: Answer, runs: bool | None, error: str | None, *, enough: bool) -> CriterionScore:
    """`enough`: what was seen is enough to pass."""
    facts = answer.facts
    if runs is None:
        return unscored(criterion, error or "", "sandbox_error")
    if facts is None and (answer.result.timed_out or answer.result.limit):
        return unscored(criterion, f"it could not be watched to its end: {error}", "does_not_run")
    if facts is None:
        return decided(criterion, False, f"nothing of it is in effect: {error}")
    verdict = facts["verdicts"].get(criterion.key)
    if verdict is None:
        why = facts["trace_error"] or error or "no training was seen"
        return unscored(criterion, f"nothing was seen of it: {why}", "undecided" if facts["runs"] else "does_not_run")
    passed = verdict["says"] == "yes"
    evidence = tuple(Evidence(text.line(n), "run", n, n) for n in verdict["lines"])
    return scored(criterion, passed, verdict["text"], evidence, _doubt(text, answer, enough) if passed else "")


def _doubt(text: Source, answer: Answer, enough: bool) -> str:
    """Why no pass can be read from what was seen of this program, or "".

    Whoever alters what is seen does it to pass: a program that fails all the same is told as it was seen, unless it
    replaced what the probe itself stands on.
    """
    assert answer.facts is not None
    if answer.facts.get("settled"):
        return ""
    if answer.facts["tampered"]:
        return f"the program uses {answer.facts['tampered'][0]}: what was seen of it can't be relied on"
    if not enough:
        return ""
    if answer.doubts:
        return f"{answer.doubts[0]}, with which a program can alter what is seen of it"
    if answer.facts["asked"]:
        return f"the program uses {answer.facts['asked'][0]}, with which it can alter what is seen of it"
    return next(
        (f"line {line} uses {name}, with which a program can alter what is seen of it" for line, name in reaching_words(text.tree)), ""
    )
