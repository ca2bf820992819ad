"""What a run will cost and how long it will take, before it is started; each number says what it rests on.

Prices are those of llm/prices.py. Tokens of answers and seconds come from earlier calls where there are any, and are
called a guess where there are none. It is an estimate: the limit of a run is what holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Avg, Count, Q, Sum

from graders.judge import JudgeError
from graders.judge.grader import JudgeGrader, ready_config
from graders.judge.prompt import LAST_WORD, TASK_AS_DATA, system_prompt
from graders.registry import Grader as PlainGrader
from llm.config import Config, read_config
from llm.port import CHARS_A_TOKEN, USUAL_OUTPUT
from llm.types import Usage
from reviewapp.catalog.sync import spec_of
from reviewapp.models import Grade, Grader, Job, LlmCall, Output, Run, Task, Variant

FEW = 500
RECENT = 200  # calls or grades that an average is made of
GUESSED_CALL_S, GUESSED_GRADING_S = 20.0, 10.0
GUESSED_TURNS, GUESSED_RESULT_TOKENS = 8, 1_500  # of an agent with tools


@dataclass(frozen=True)
class Plan:
    """`cost_usd` None: a model has no known price. `notes`: what the numbers rest on, and what stands in the way."""

    units: int
    calls: int = 0
    tokens: int = 0
    cost_usd: float | None = 0.0
    duration_s: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def takes(self) -> timedelta:
        return timedelta(seconds=math.ceil(self.duration_s))


def why_no_model() -> str:
    """What keeps models from being asked, as things are set up now; "" when they can be."""
    try:
        ready_config()
    except JudgeError as error:
        return str(error)
    return ""


def plan_gradings(task: Task, plain: PlainGrader, output_ids: Sequence[int]) -> Plan:
    """Of a grader on these outputs of one task. A few queries, whatever their number."""
    return _plan_gradings(task, plain, len(output_ids), _chars(task, output_ids) if isinstance(plain, JudgeGrader) else 0)


def plan_graded(task: Task, plan: Plan, graders: Sequence[PlainGrader]) -> Plan:
    """The plan of rollouts, and that of grading what comes out of them, as long as outputs of the task are on average."""
    mean = task.outputs.filter(is_latest=True, length__gt=0).aggregate(mean=Avg("length"))["mean"] or USUAL_OUTPUT * CHARS_A_TOKEN
    for grader in graders:
        more = _plan_gradings(task, grader, plan.units, int(plan.units * mean))
        costs = (plan.cost_usd, more.cost_usd)
        plan = Plan(
            plan.units,
            plan.calls + more.calls,
            plan.tokens + more.tokens,
            None if None in costs else sum(cost or 0.0 for cost in costs),
            plan.duration_s + more.duration_s,
            (*plan.notes, *(f"Grading with {grader.name}: {note[0].lower()}{note[1:]}" for note in more.notes)),
        )
    return plan


def _plan_gradings(task: Task, plain: PlainGrader, n: int, chars: int) -> Plan:
    if not isinstance(plain, JudgeGrader):
        return _plan_code(plain, n)
    judge = plain.judge
    calls = n * judge.votes
    system = int(len(system_prompt(judge, spec_of(task))) / CHARS_A_TOKEN)
    said = int(judge.votes * (chars + n * len(TASK_AS_DATA + LAST_WORD)) / CHARS_A_TOKEN)
    usual = _usual_call(judge.model)
    usage = Usage(said, calls * usual.output, max(0, calls - 1) * system, system if calls else 0)
    notes = (f"{judge.votes} {'vote' if judge.votes == 1 else 'votes'} an output.", usual.text)
    return _priced(judge.model, n, usage, notes, Calls(calls, usual.seconds))


def _chars(task: Task, output_ids: Sequence[int]) -> int:
    """Of all these outputs; of many, about as many as the task's have on average. One query."""
    if len(output_ids) <= FEW:
        return Output.objects.filter(pk__in=output_ids).aggregate(n=Sum("length"))["n"] or 0
    return int(len(output_ids) * (task.outputs.filter(is_latest=True).aggregate(mean=Avg("length"))["mean"] or 0))


def plan_rollouts(task: Task, variants: Sequence[Variant], models: Sequence[str], n: int) -> Plan:
    plans = [_plan_rollouts_of(task, variant, model, n) for model in models for variant in variants]
    costs = [plan.cost_usd for plan in plans]
    return Plan(
        units=sum(plan.units for plan in plans),
        calls=sum(plan.calls for plan in plans),
        tokens=sum(plan.tokens for plan in plans),
        cost_usd=None if None in costs else sum(cost or 0.0 for cost in costs),
        duration_s=max((plan.duration_s for plan in plans), default=0.0),
        notes=tuple(dict.fromkeys(note for plan in plans for note in plan.notes)),
    )


def _plan_rollouts_of(task: Task, variant: Variant, model: str, n: int) -> Plan:
    before = _earlier_rollouts(task, model)
    if before:
        count, calls, usage, seconds = before
        share = n / count
        scaled = Usage(*(int(share * value) for value in (usage.input, usage.output, usage.cache_read, usage.cache_write)))
        return _priced(model, n, scaled, (f"As {count} earlier rollouts by {model}.",), Calls(round(share * calls), seconds, calls / count))
    turns = GUESSED_TURNS if task.tools else 1
    prompt = (len(variant.prompt) + len(variant.starter)) / CHARS_A_TOKEN
    grown = turns * (turns - 1) / 2 * (USUAL_OUTPUT / 4 + GUESSED_RESULT_TOKENS)
    usage = Usage(int(n * (turns * prompt + grown)), n * (turns * USUAL_OUTPUT // (4 if turns > 1 else 1)))
    note = f"A guess of {turns} turn{'' if turns == 1 else 's'} a rollout: {model} has done none of this task yet."
    return _priced(model, n, usage, (note,), Calls(n * turns, GUESSED_CALL_S, turns))


def _earlier_rollouts(task: Task, model: str) -> tuple[int, int, Usage, float] | None:
    """(rollouts, calls, tokens, seconds a call) of this model on this task."""
    runs = Run.objects.filter(kind=Run.Kind.ROLLOUT, arguments__task=task.slug).order_by("-id")
    # Where a judge asked the same model, its calls can't be told from those of the rollouts.
    scopes = {pk: scope for pk, scope, told in runs.values_list("id", "scope", "arguments")[:40] if model not in told.get("judged_by", ())}
    count = Job.objects.filter(run__in=scopes, state=Job.State.DONE, arguments__model=model).count()
    if not count:
        return None
    calls = LlmCall.objects.filter(scope__in=scopes.values(), model=model)
    sums = calls.aggregate(
        n=Count("id"), i=Sum("input_tokens"), o=Sum("output_tokens"), r=Sum("cache_read_tokens"), w=Sum("cache_write_tokens")
    )
    if not sums["n"]:
        return None
    usual = _usual_call(model)
    return count, sums["n"], Usage(sums["i"] or 0, sums["o"] or 0, sums["r"] or 0, sums["w"] or 0), usual.seconds * sums["n"]


@dataclass(frozen=True)
class Usual:
    output: int
    seconds: float
    text: str


def _usual_call(model: str) -> Usual:
    """What the newest calls of a model gave. One query."""
    calls = LlmCall.objects.filter(model=model).exclude(request_sha256="").order_by("-id")
    rows = list(calls.values_list("output_tokens", "reply__duration_s")[:RECENT])
    if not rows:
        return Usual(USUAL_OUTPUT, GUESSED_CALL_S, f"A guess of {USUAL_OUTPUT:,} tokens an answer: {model} has not been asked yet.")
    output = round(sum(tokens for tokens, _ in rows) / len(rows))
    known = [float(seconds) for _, seconds in rows if seconds]
    seconds = sum(known) / len(known) if known else GUESSED_CALL_S
    return Usual(output, seconds, f"{output:,} tokens and {seconds:.1f} s an answer, as in {len(rows)} earlier calls of {model}.")


@dataclass(frozen=True)
class Calls:
    """`in_a_row`: so many of them wait for each other."""

    n: int
    seconds: float
    in_a_row: float = 1


def _priced(model: str, units: int, usage: Usage, notes: tuple[str, ...], calls: Calls) -> Plan:
    config = _config()
    cost = config.prices.cost(model, usage)
    if cost is None:
        notes = (*notes, f"{model} has no known price: give one in LLM_PRICES.")
    seconds = calls.seconds * calls.in_a_row * math.ceil(calls.n / calls.in_a_row / max(1, config.in_flight))
    if config.requests_per_minute:
        seconds = max(seconds, 60 * calls.n / config.requests_per_minute)
    if config.tokens_per_minute:
        seconds = max(seconds, 60 * usage.total / config.tokens_per_minute)
    return Plan(units, calls.n, usage.total, cost, seconds, notes)


def _config() -> Config:
    try:
        return read_config()
    except (ValueError, OSError):
        return Config()


def _plan_code(plain: PlainGrader, n: int) -> Plan:
    grades = Grade.objects.filter(grader__name=plain.name, grader__kind=Grader.Kind.CODE, duration_s__isnull=False).order_by("-id")
    found = Grade.objects.filter(pk__in=list(grades.values_list("pk", flat=True)[:RECENT])).aggregate(
        mean=Avg("duration_s"), n=Count("id", filter=Q(duration_s__gte=0))
    )
    mean = found["mean"] if found["mean"] is not None else GUESSED_GRADING_S
    told = f"{mean:.1f} s an output, as in {found['n']} earlier gradings" if found["n"] else f"A guess of {mean:.0f} s an output"
    return Plan(n, duration_s=n * mean, notes=(f"{told}, by one worker process; asks no model.",))
