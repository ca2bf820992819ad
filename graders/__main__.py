"""`python -m graders list` and `python -m graders grade TASK FILE...`: grading without web app and database.

Exit 0: every file was graded, whatever the grades. 2: bad usage or a file that can't be read. 3: at least one file
could not be graded for a reason of ours; the others are still printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from graders import registry
from graders.grade import Grade, GraderError
from graders.registry import Grader
from tasks.task import Task, TaskError, is_pass, load_tasks, weighted_overall

MAX_SOURCE_BYTES = 1 << 20


class UsageError(Exception):
    """The command line or a file is wrong: one line on stderr, exit 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message)


@dataclass(frozen=True)
class Outcome:
    """One file's grade, or why there is none; both where only the grader beside the judge could grade."""

    file: str
    grade: Grade | None
    why: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = _parser().parse_args(argv)
        return _list() if options.command == "list" else _grade(options)
    except (UsageError, TaskError, GraderError) as error:
        print(f"graders: {error}", file=sys.stderr)
        return 2


def _parser() -> Parser:
    parser = Parser(prog="python -m graders", description="Grade submissions without the web app.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    commands.add_parser("list", help="print the graders, their versions and criteria")
    grade = commands.add_parser("grade", help="grade files")
    grade.add_argument("task", metavar="TASK")
    grade.add_argument("files", metavar="FILE", nargs="+")
    grade.add_argument("--json", action="store_true", help="one JSON object a line")
    grade.add_argument("--backend", choices=("auto", "bwrap", "docker", "process"), default="auto")
    grade.add_argument("--timeout", type=_seconds, metavar="S", help="wall seconds a run may take")
    grade.add_argument("--jobs", type=_count, default=1, metavar="N", help="files graded at a time")
    grade.add_argument("--grader", metavar="NAME", help="NAME or NAME@VERSION; default: the task's primary grader")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"is {text}, must be above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {text}, must be 1 or more")
    return value


# --- list -------------------------------------------------------------------------------------------------


def _list() -> int:
    for grader in registry.all_graders():
        print(f"{grader.name}  version {grader.version}  {grader.kind}  {grader.sha256[:12]}")
        if why := registry.why_not_ready(grader):
            print(f"    not ready: {why}")
        for task in grader.tasks:
            print(f"    {task}: {' '.join(grader.criteria(task))}")
    return 0


# --- grade ------------------------------------------------------------------------------------------------


def _grade(options: argparse.Namespace) -> int:
    task = _find_task(options.task)
    sources = [(name, _read(name)) for name in options.files]
    grade_one = _grade_one(task, options)
    worst = 0
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        for outcome in pool.map(grade_one, sources):
            if outcome.why:
                worst = 3
                print(f"graders: {outcome.file}: {outcome.why}", file=sys.stderr)
            if outcome.grade is None:
                continue
            if options.json:
                print(json.dumps(outcome.grade.to_json(outcome.file), ensure_ascii=False, allow_nan=False), flush=True)
            else:
                print(_table(outcome.file, outcome.grade), flush=True)
    return worst


def _find_task(slug: str) -> Task:
    tasks = {task.slug: task for task in load_tasks()}
    if slug not in tasks:
        raise UsageError(f"no task {slug!r}, there are: {', '.join(tasks)}")
    return tasks[slug]


def _read(name: str) -> str:
    path = Path(name)
    try:
        if not path.is_file():
            raise UsageError(f"{name}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > MAX_SOURCE_BYTES:
            raise UsageError(f"{name}: larger than {MAX_SOURCE_BYTES >> 10} KiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text (byte {error.start})") from None


def _grade_one(task: Task, options: argparse.Namespace) -> Callable[[tuple[str, str]], Outcome]:
    grader, why = _choose(task, options.grader)
    aside = None if options.grader else _beside(task, grader)

    def run(one: Grader, source: str) -> Grade:
        return one.grade(task, source, timeout_s=options.timeout, backend=options.backend)

    def grade_one(item: tuple[str, str]) -> Outcome:
        file, source = item
        if grader is None:
            return Outcome(file, None, why)
        try:
            left_over = run(aside, source) if aside else None
            try:
                grade = run(grader, source)
            except GraderError as error:
                told = f"; graded by {aside.name} alone" if aside else ""
                return Outcome(file, left_over, f"{error}{told}")
            return Outcome(file, _with_left_over(task, grade, left_over) if left_over else grade)
        except GraderError as error:
            return Outcome(file, None, str(error))
        except Exception as error:  # a bug of ours must not take the other files along
            return Outcome(file, None, f"grader {grader.name} broke: {type(error).__name__}: {error}")

    return grade_one


def _choose(task: Task, asked: str | None) -> tuple[Grader | None, str]:
    """The grader to use, or None and why there is none here."""
    able = registry.for_task(task.slug)
    if asked:
        name, _, version = asked.partition("@")
        try:
            grader = registry.get(name, version or None)
        except GraderError as error:
            raise UsageError(str(error)) from None
        if task.slug not in grader.tasks:
            raise UsageError(f"grader {name} does not grade {task.slug}, only: {', '.join(grader.tasks)}")
        return grader, ""
    primary = [g for g in able if g.name == task.primary_grader]
    if chosen := primary or able:
        return chosen[-1], ""
    return None, f"{task.slug} has no grader in this program"


def _beside(task: Task, grader: Grader | None) -> Grader | None:
    """A grader without a model for criteria that the task's judge leaves to it (citations)."""
    if grader is None or grader.kind != "llm_judge":
        return None
    judged = set(grader.criteria(task.slug))
    others = [g for g in registry.for_task(task.slug) if g.kind != "llm_judge" and not judged.issuperset(g.criteria(task.slug))]
    return others[0] if others else None


def _with_left_over(task: Task, grade: Grade, other: Grade) -> Grade:
    """The judge's grade with the other one's criteria in their places; overall score and pass follow from all of them."""
    by_key = {c.key: c for c in grade.criteria} | {c.key: c for c in other.criteria}
    rows = tuple(by_key[c.key] for c in task.rubric.criteria if c.key in by_key)
    scores = {c.key: c.score for c in rows}
    overall = weighted_overall(task.rubric, scores)
    failure = grade.failure_category or other.failure_category
    passed = is_pass(task.rubric, scores, overall, grade.runs)
    return replace(grade, criteria=rows, score=overall, passed=passed, failure_category=failure)


# --- the table --------------------------------------------------------------------------------------------


def _table(file: str, grade: Grade) -> str:
    name = f"{grade.grader.get('name', '')}@{grade.grader.get('version', '')}"
    score = "-" if grade.score is None else f"{grade.score:g}"
    runs = {True: "runs", False: "does not run", None: "not run"}[grade.runs]
    head = f"{file}: {_word(grade.passed)}  score {score}  {runs}"
    extra = [grade.failure_category] if grade.failure_category else []
    lines = [f"{head}  ({', '.join([*extra, name, f'{grade.duration_s:.1f} s'])})"]
    width = max((len(c.key) for c in grade.criteria), default=0)
    for c in grade.criteria:
        where = _where(e.line_start for e in c.evidence)
        said = f"{c.score:g}" if c.passed is None and c.score is not None else _word(c.passed)
        lines.append(f"  {c.key:<{width}}  {said:<9}  {where:<8}  {c.rationale}".rstrip())
    if grade.error:
        lines.append("  error: " + grade.error.strip().splitlines()[-1])
    return "\n".join(lines)


def _where(lines: Iterable[int | None]) -> str:
    return next((f"line {line}" for line in lines if line), "")


def _word(passed: bool | None) -> str:
    return {True: "pass", False: "fail", None: "undecided"}[passed]


if __name__ == "__main__":
    sys.exit(main())
