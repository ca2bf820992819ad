"""fsdp_training: decides the seven criteria by running the submission as torchrun would, on one node and on three.

A third launch has the starter's own options; only programs that the others found running well are put to it.

A probe (probes/fsdp_probe.py) forks the ranks of each launch in a sandbox, on the CPU with gloo. The submission is shown
nodes with GPUs and NCCL: CUDA calls are played on the CPU and recorded, and what a GPU or NCCL would refuse is refused.
What is recorded is what the program does: devices used, modules wrapped, rows of data that reach the model, steps, the
file that is written beside the weights that training ended with. Words in the source have no part in it.

A program that breaks at a known mistake is run again with that mended, so that the rest of it is judged too; what can
still not be seen is `undecided` with the reason. Not covered: real GPUs and NCCL (no probe has been run on one, and the
CPU is always used), more than three ranks, data that does not pass a model as rows of tokens, and programs that act
otherwise with more ranks or larger options. Recorder and submission share a process: a program that reaches into its own
recording is given no pass, but is not proven guilty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from graders.code import sha256_of_files
from graders.code.channel import FOR_TRAINING, PROBES, Answer, ask_probe
from graders.code.fsdp_course import broken, one_gpu_twice
from graders.code.fsdp_runs import LARGER, ONE_NODE, Run, check_report, read_runs, strict
from graders.code.fsdp_source import Doubts, doubts
from graders.code.fsdp_verdict import Verdict
from graders.code.fsdp_verdicts import Judge
from graders.code.scores import scored, unscored, without_report
from graders.code.source import Source, read_source
from graders.grade import CriterionScore, Evidence, Grade, grade_of
from graders.sandbox import Limits
from tasks.task import Criterion, Task

PROBE = "fsdp_probe.py"
PARTS = (
    "fsdp_record",
    "fsdp_gpus",
    "fsdp_node",
    "fsdp_host",
    "fsdp_beyond",
    "fsdp_group",
    "fsdp_mend",
    "fsdp_units",
    "fsdp_training_hooks",
    "fsdp_weights",
    "fsdp_rank",
    "fsdp_launch",
    "error_lines",
    "comparisons",
)
MODULES = tuple(f"{name}.py" for name in PARTS)
KEYS = (
    "local_rank_device", "wrap_policy", "full_state_dict", "param_count", "distributed_sampler", "init_destroy", "runs_multi_node",
)  # fmt: skip
TIMEOUT_S = 240.0  # on a busy machine; launches have limits of their own, most of them on CPU time
# What a line of the source must say to be shown beside a verdict that names no line of its own.
SHOWS = {
    "param_count": r"Total parameters",
    "full_state_dict": r"state_dict|torch\.save",
    "distributed_sampler": r"Sampler\(|set_epoch|DataLoader\(",
    "init_destroy": r"init_process_group|destroy_process_group",
    "wrap_policy": r"fully_shard\(|FSDP\(|FullyShardedDataParallel\(|wrap_policy",
    "local_rank_device": r"LOCAL_RANK|set_device|get_node_local_rank",
    "runs_multi_node": r"\.step\(\)",
}


class FSDPTrainingGrader:
    """Runs under launches, records, decides. `timeout_s` bounds the sandboxed run, torch's import included."""

    name = "fsdp_training"
    version = "1"
    kind = "code"
    runs_code = True
    tasks = ("fsdp_training",)

    @cached_property
    def sha256(self) -> str:
        here = Path(__file__).parent
        names = (
            "fsdp_training.py",
            "fsdp_runs.py",
            "fsdp_verdict.py",
            "fsdp_verdicts.py",
            "fsdp_course.py",
            "fsdp_source.py",
            "channel.py",
            "scores.py",
            "source.py",
        )
        return sha256_of_files(*(here / name for name in names), *(PROBES / name for name in (PROBE, *MODULES)))

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
        tell("running on one node and on three")
        wall_s = timeout_s or TIMEOUT_S
        limits = Limits(wall_s=wall_s, processes=512, output_mb=16)
        answer = ask_probe(PROBE, MODULES, source, check=check_report, limits=limits, backend=backend, preload=FOR_TRAINING)
        tell("deciding the criteria")
        return self._grade_of(task, text, answer)

    def _grade_of(self, task: Task, text: Source, answer: Answer) -> Grade:
        result = answer.result
        runs = read_runs(answer.facts) if answer.facts is not None else []
        seen = Seen(text, runs, Judge(runs).verdicts(), doubts(text))
        ran, error, category = _run_facts(answer, runs)
        rows = [_score(criterion, seen, ran, error or "") for criterion in task.rubric.criteria]
        first = strict(runs, ONE_NODE)
        return grade_of(
            task.slug,
            task.rubric,
            rows,
            runs=ran,
            failure_category=_category(seen, rows) or category,
            error=error,
            duration_s=result.wall_s,
            peak_memory_mb=result.peak_memory_mb,
            grader={"name": self.name, "version": self.version, "sha256": self.sha256},
            sandbox=result.facts(),
            stdout=_log(first, "stdout") or result.stdout,
            stderr=_log(first, "stderr") or result.stderr,
        )


class Seen:
    """All that is known of a submission."""

    def __init__(self, text: Source, runs: Sequence[Run], verdicts: Mapping[str, Verdict], doubted: Doubts) -> None:
        self.text, self.runs, self.verdicts, self.doubts = text, runs, verdicts, doubted
        # Lines that were seen going the other way in a launch that ended well.
        self.turned = {event.line for run in runs if run.name == LARGER and run.well for event in run.all("beyond")}

    def doubt(self, key: str) -> str:
        """Why no pass can be read, or "".

        It is the script as a whole that gets no pass: what it did in the launches is told criterion by criterion. A program
        that is wrong in what was seen is no pass however it was seen.
        """
        if key != "runs_multi_node" or any(verdict.passed is False for verdict in self.verdicts.values()):
            return ""
        if reaching := self.doubts.reaching:
            return f"line {reaching[0].line} uses {reaching[0].text}, with which a program can alter what is seen of it"
        if replacing := self.doubts.replacing:
            return f"line {replacing[0].line} replaces a library's own or leaves its process: {replacing[0].text}"
        if unseen := [doubt for doubt in self.doubts.unseen if doubt.line not in self.turned]:
            return f"line {unseen[0].line} may go another way at sizes that were not run: {unseen[0].text}"
        names = [str(n) for run in self.runs for e in run.all("tampered") for n in e.items("names")]
        return f"the program replaced {names[0]}: what is seen of it can't be relied on" if names else ""


def _run_facts(answer: Answer, runs: Sequence[Run]) -> tuple[bool | None, str | None, str]:
    """(runs on one node of two GPUs, the submission's error, failure category)."""
    if answer.facts is not None:
        first = strict(runs, ONE_NODE)
        stopped = broken(first) if first else Verdict(False, "no launch was made")
        refused = one_gpu_twice(first) if first else None
        ran, stopped = first is not None and first.over and refused is None, stopped or refused
        return ran, stopped.text if stopped else None, stopped.category if stopped else ""
    return without_report(answer)


def _score(criterion: Criterion, seen: Seen, ran: bool | None, error: str) -> CriterionScore:
    if ran is None:
        return unscored(criterion, error, "sandbox_error")
    verdict = seen.verdicts.get(criterion.key)
    if verdict is None:
        return unscored(criterion, f"no launch came to an end: {error}", "does_not_run")
    evidence = _evidence(criterion.key, verdict, seen.text)
    return scored(criterion, verdict.passed, verdict.text, evidence, seen.doubt(criterion.key) if verdict.passed else "")


def _evidence(key: str, verdict: Verdict, text: Source) -> tuple[Evidence, ...]:
    """The lines that the run names; where it names none, the first lines of the source that are about it."""
    if verdict.lines:
        return tuple(Evidence(text.line(n), "run", n, n) for n in verdict.lines)
    rows = text.text.splitlines()
    about = [i for i, row in enumerate(rows, 1) if re.search(SHOWS[key], row.partition("#")[0]) and not row.startswith(("import", "from"))]
    return tuple(Evidence(text.line(n), "static", n, n) for n in about[:2])


def _category(seen: Seen, rows: Sequence[CriterionScore]) -> str:
    """The category of the first criterion that fails for a reason of its own."""
    failed = [row.key for row in rows if row.passed is False]
    named = [seen.verdicts[key].category for key in failed if key in seen.verdicts]
    return next((c for c in named if c and c not in ("crash", "hang", "timeout")), next((c for c in named if c), ""))


def _log(run: Run | None, stream: str) -> str:
    """What the ranks of a launch said, a heading for each."""
    if run is None:
        return ""
    said: list[tuple[int, Any]] = [(rank.rank, getattr(rank, stream).strip()) for rank in run.ranks]
    return "\n".join(f"[rank {number}]\n{text}" for number, text in said if text)[:16000]
