"""One forward pass of a training program and what followed it, and one update. Runs INSIDE the sandbox."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch

LEAST_FED = 0.1  # of the parameters, by a pass


@dataclass
class Forward:
    """One pass of images through the model, and what followed until the next one."""

    number: int
    samples: int
    with_grad: bool
    work: float = 0
    work_by: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # low:<dtype>, autocast, compiled, of the work
    recomputed: float = 0
    remade_bytes: int = 0  # in a backward pass, by whatever is recomputed there
    pixels: int = 0
    images: tuple[float, ...] = ()  # the first values, to know them again
    regions: int = 0  # recomputed by themselves
    nested: int = 0  # backward passes inside its own, as a recomputation by hand has them
    attention: list[tuple[str, int]] = field(default_factory=list)  # fused, fused without mask, by hand; line
    in_place: list[tuple[str, int]] = field(default_factory=list)
    convolutions: list[bool] = field(default_factory=list)  # in channels-last layout?
    parameters: dict[int, tuple[int, torch.dtype]] = field(default_factory=dict)
    head_rows: list[tuple[int, int, int]] = field(default_factory=list)  # rows of logits made at once; line; bytes as wide held before
    losses: list[tuple[int, float]] = field(default_factory=list)  # rows, mean loss
    activation_bytes: int = 0  # what its products make
    packed: Counter[str] = field(default_factory=Counter)  # bytes by what became of them
    originals: list[tuple[weakref.ref[Any], int]] = field(default_factory=list)  # of what was packed, until the backward pass: bytes
    attended: int = 0  # positions that attention looks at, at most
    rows: int = 0  # that a linear layer works on, at most
    copies: list[tuple[bool, bool, int]] = field(default_factory=list)  # of its images: non_blocking, pinned, line
    tokens: int = 0
    backwards: int = 0
    reached: set[int] = field(default_factory=set)  # of its parameters, those that a backward pass leads to
    roots: list[float] = field(default_factory=list)
    grads_before: list[str] = field(default_factory=list)  # none, zero or kept, at each backward pass
    updated: int = 0  # parameters written after it and before the next
    factors: Counter[float] = field(default_factory=Counter)  # number -> elements of gradients that were multiplied by it before the update
    undone: bool = False  # other values were put over its update
    fed: Counter[int] = field(default_factory=Counter)  # forward pass -> parameters so written to which its backward pass led

    def take(self, more: Forward) -> None:
        """What was computed after a backward pass and led to another."""
        self.work += more.work
        for what, work in more.work_by.items():
            self.work_by[what] += work
        self.attended, self.rows = max(self.attended, more.attended), max(self.rows, more.rows)
        self.originals += more.originals
        for name in ("attention", "in_place", "convolutions", "head_rows", "losses"):
            getattr(self, name).extend(getattr(more, name))
        self.parameters |= more.parameters
        self.activation_bytes += more.activation_bytes
        self.packed += more.packed
        self.tokens = max(self.tokens, more.tokens)

    @property
    def is_training(self) -> bool:
        return 2 * sum(n for i, (n, _) in self.parameters.items() if i in self.reached) >= self.n_parameters > 0

    @property
    def n_parameters(self) -> int:
        return sum(n for n, _ in self.parameters.values())


@dataclass
class Step:
    """The update after one or more backward passes."""

    after: int  # number of the forward pass
    in_backward: bool
    transient_bytes: int = 0  # the most that was held during it, less what was held before


def led_to_updates(forwards: list[Forward]) -> Counter[int]:
    """number of a pass -> parameters that were written to from its gradients, where they are enough."""
    fed: Counter[int] = sum((f.fed for f in forwards), Counter())
    most = max((f.n_parameters for f in forwards), default=0)
    return Counter({number: n for number, n in fed.items() if n >= LEAST_FED * most})


def taken_back(forwards: list[Forward], newest: list[tuple[int, int]]) -> list[Forward]:
    """The passes of which nothing is left in the parameters, as other values were put over their update.

    `newest`: the size of each parameter, and the newest pass from whose gradients it was made.
    """
    if 2 * sum(n for n, _ in newest) < max((f.n_parameters for f in forwards), default=0):
        return []  # they are elsewhere
    led = led_to_updates(forwards)
    left = {f.number: sum(n for n, new in newest if new >= f.number) for f in forwards if f.number in led}
    return [f for f in forwards if f.number in led and 2 * left[f.number] < min(led[f.number], f.n_parameters)]


def of_the_model(passes: list[Forward], evaluated: list[Forward]) -> list[Forward]:
    """Of the training passes those of the model that the program is about, where it trains another beside it.

    It is the one that is evaluated; of several the one that is updated most often, and then the one that takes more memory.
    Where each pass has parameters of its own, as where an update makes them anew, all are.
    """
    models: list[list[Forward]] = []
    for one in passes:
        found = next((m for m in models if 2 * _shared(one, m[0].parameters) >= one.n_parameters), None)
        if found is None:
            models.append([one])
        else:
            found.append(one)
    if len(models) < 2 or max(map(_updates, models)) < 2:
        return passes
    seen = {number: rest for f in evaluated for number, rest in f.parameters.items()}
    models = [m for m in models if 2 * _shared(m[0], seen) >= m[0].n_parameters] or models
    most = max(map(_updates, models))
    return max((m for m in models if _updates(m) == most), key=lambda m: sum(f.activation_bytes for f in m))


def _shared(one: Forward, others: dict[int, tuple[int, torch.dtype]]) -> int:
    return sum(n for number, (n, _) in one.parameters.items() if number in others)


def _updates(passes: list[Forward]) -> int:
    return sum(2 * f.updated >= f.n_parameters for f in passes)
