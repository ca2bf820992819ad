"""The trial runs of a neural_memory submission: does it keep its contract, what does it do, is it the same each time?

Runs INSIDE the sandbox, beside untrusted code.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FunctionType, ModuleType
from typing import Any

import torch
from another_day import another_day
from lenient import called, logits_in
from memory_facts import Trace
from modes import TRAINING, Mode
from oplog import Counter, Graph, OpLog
from threads import THREADS
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy

CONTRACT = (2, 16)
BATCHES, LENGTHS, LONGER = (3, 5), (6, 7, 9), (19, 21, 23)  # sizes that a state, a head or a layer seldom has
LONGEST = (33, 64, 130)  # as far as a program takes them, to see that steps go on being made
LATER_CALLS = 64
CALMER = 0.4
NEARLY_ZERO = 1e-3  # scales of layers begin as small as that
TEXT = "the cat sat on the mat and then it went to see what else there was in the house by the sea "
LETTERS = "abcdefghijklmnopqrstuvwxyz "  # each sequence has others, so that no two have the same token at the same time
KINDS = ("text", "noise", "pad", "again")  # what the tokens are like: a program may do other things with each
# Where and when it runs: after a seed set by hand, beside a GPU, in inference mode, on another day.
ELSEWHERE = ("seeded", "gpu", "inference", "another day")
MORE = ((11, 0), (2, 16), (2, 32))  # sequences and tokens (0: as many as ever) that a program may have other code for
CHANCE, BY_HAND = 0x5A17_93C4_E6B8_0D2F, 42  # a seed as a process has that nobody seeded, and one as people set
LOOKED_AT = 4000  # values of the program's own that are compared to see whether it counts its calls


class Broken(Exception):
    """The submission does not keep its contract: the message says how."""


class Trial:
    """One model on its trial runs. `seed` picks sizes, which so no program can know beforehand."""

    def __init__(self, model: torch.nn.Module, module: ModuleType, path: str, seed: int) -> None:
        self.model, self.module, self.path, self.seed = model, module, path, seed
        self.vocab = vocabulary(model)
        self.sizes = (BATCHES[seed % len(BATCHES)], LENGTHS[seed // 2 % len(LENGTHS)])
        self.memory_class, self.no_class = memory_class_of(module)
        self.kind = "noise"
        self.lenient = False  # is what a mended program gives taken for logits, whatever they are in?
        self.odd_length = 0
        self.remembers = False  # does an answer depend on earlier calls?
        self.long = (CONTRACT[0], LONGER[seed // 6 % len(LONGER)])
        quiet_dropout(model)
        model.train()
        if any(is_lazy(p) for p in model.parameters()):  # layers that take their sizes from the first input
            self.run(*CONTRACT)
        shake(model)

    def tokens(self, batch: int, length: int) -> torch.Tensor:
        """Random ones, the bytes of a text, sequences with zeros at their end, or three tokens that come again and again."""
        generator = torch.Generator().manual_seed(length)
        if self.kind == "text":
            places = [[(LETTERS.index(TEXT[at % len(TEXT)]) + 5 * row) % len(LETTERS) for at in range(length)] for row in range(batch)]
            return torch.tensor([[ord(LETTERS[place]) % self.vocab for place in row] for row in places])
        tokens = torch.randint(0, self.vocab, (batch, length), generator=generator)
        if self.kind == "pad":
            tokens[1:, length // 2 :] = 0
        return tokens[:, :3].repeat(1, length)[:, :length] if self.kind == "again" else tokens

    def run(self, batch: int, length: int) -> torch.Tensor:
        """The logits, without a look inside."""
        tokens = self.tokens(batch, length)
        with self._somewhere():
            logits: torch.Tensor = self._logits(tokens)
        return logits

    def _logits(self, tokens: torch.Tensor) -> Any:
        return logits_in(called(self.model, tokens), *tokens.shape) if self.lenient else self.model(tokens)

    def check(self) -> None:
        """Forward and backward at the contract's size. Raises Broken."""
        batch, length = CONTRACT
        logits = self.run(batch, length)
        check_logits(logits, batch, length)
        self.backward(logits, self.tokens(batch, length), retain=False)
        if not any(p.grad is not None and bool((_dense(p.grad) != 0).any()) for p in self.model.parameters()):
            raise Broken("backward gives no parameter a gradient")
        self.learn()

    def learn(self) -> None:
        """A small step as Adam's first, and as many writes to the parameters as a training of many steps has made.

        By hand: to make an optimizer of torch's imports torch._dynamo, which costs more than all else here.
        """
        with torch.no_grad():
            for p in self.model.parameters():
                if p.grad is not None:
                    p.sub_(1e-4 * _dense(p.grad).sgn())
                    nothing = p.detach().reshape(-1)[:0]
                    for _ in range(LATER_CALLS):
                        nothing.zero_()

    def backward(self, logits: torch.Tensor, tokens: torch.Tensor, *, retain: bool) -> None:
        self.model.zero_grad(set_to_none=True)
        loss = cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), (tokens[:, 1:] % logits.shape[-1]).reshape(-1))
        torch.autograd.backward(loss, retain_graph=retain)

    def trace(self, batch: int, length: int, *, backward: bool = True, mode: Mode = TRAINING) -> Trace:
        """The op log of one forward pass, with the gradients of one backward pass if wanted."""
        with mode.of(self.model):
            return self._trace(batch, length, backward and mode.grad, mode)

    def _trace(self, batch: int, length: int, backward: bool, mode: Mode) -> Trace:
        log = OpLog(self.path, lambda thing: self.memory_class in bases(type(thing)))
        tokens = self.tokens(batch, length)
        log.leaf(tokens, "tokens", "tokens")
        for name, p in self.model.named_parameters():
            log.leaf(p, "param", name)
        for name, b in self.model.named_buffers():
            log.leaf(b, "const", name)
        with self._somewhere(), THREADS.recorded_by(log):
            logits = self._logits(tokens)
        if log.overflow:
            raise OverflowError("more operations than can be read")
        check_logits(logits, batch, length)
        if not any(node.place for node in log.nodes):
            raise RuntimeError("no operation could be led back to the submission's code")
        end = log.read(logits).i
        grads = None
        if backward:
            self.backward(logits, tokens, retain=True)
            named = list(self.model.named_parameters())
            grads = {n: float(_dense(p.grad).abs().max()) for n, p in named if p.grad is not None and p.numel()}
        graph = Graph(log.nodes)
        graph.learns = mode.grad
        return Trace(graph, length, end, grads)

    def differs(self) -> bool:
        """Does a run give something else after one of other tokens?"""
        (batch, length), given = self.sizes, []
        for _ in range(2):
            given.append(self.run(batch, length).detach())
            self.run(batch, length + 1)
        return self.run(batch, length).shape != given[1].shape or _distance(self.run(batch, length).detach(), given[1]) > 1e-3

    def is_left_over(self) -> bool:
        """Does an answer depend on the call before, however often the program was called already?"""
        try:
            for _ in range(LATER_CALLS):
                self.run(1, 3)
            return self.differs()
        except Exception:  # what is left over does not fit
            return True

    def oddity(self, first: torch.Tensor, traced: Trace) -> str:
        """How the traced run differs from the first, untraced one of its size: "", "calls" or "watched"."""
        off = _distance(traced.graph.nodes[traced.logits].value, first)
        if off < 1e-3:
            return ""
        again = self.run(*first.shape[:2]).detach()
        return "watched" if _distance(again, first) < 0.01 * off else "calls"

    def longer(self) -> torch.Tensor:
        """The logits of more tokens than the contract's, if the program takes so many; `long` is then their size."""
        try:
            logits = self.run(*self.long)
            check_logits(logits, *self.long)
        except Exception:
            self.long = CONTRACT
            logits = self.run(*CONTRACT)
        return logits.detach()

    def modes(self) -> list[Mode]:
        """In which other modes does the program compute something else (or, where no two calls are alike, may it)?"""
        base = self.run(*self.sizes).detach()
        if _distance(self.run(*self.sizes).detach(), base) > 1e-3:
            return [Mode(train=False, grad=False)]
        found = []
        for mode in (Mode(train=False, grad=True), Mode(train=False, grad=False)):
            try:
                with mode.of(self.model):
                    other = self.run(*self.sizes).detach()
            except Exception:  # noqa: S112 (nothing to compare)
                continue
            if _distance(other, base) > 1e-3:
                found.append(mode)
            base = other
        return found

    def other_ways(self) -> Iterator[tuple[int, int]]:
        """With which kinds of tokens, where, and at which sizes does the program do something else? `kind` is that one then."""
        first, self.kind = self.kind, KINDS[0]
        usual = self.course(*self.sizes)
        for kind in (*KINDS[1:], *ELSEWHERE):
            self.kind = kind
            if self.course(*self.sizes) not in (usual, []):
                yield self.sizes
        self.kind = first
        known = {*usual, *self.course(self.sizes[0], self.sizes[1] + 1)}
        for batch, length in MORE:
            size = batch, length or self.sizes[1]
            if set(self.course(*size)) - known:
                yield size
        if self.odd_length:
            yield CONTRACT[0], self.odd_length

    def course(self, batch: int, length: int) -> list[object]:
        """The operations of one pass; none where the program does not run there."""
        tokens = self.tokens(batch, length)
        counter = Counter()
        with torch.no_grad(), THREADS.recorded_by(counter), suppress(Exception), self._somewhere():
            self.model(tokens)
            return list(counter.names())
        return []

    @contextmanager
    def _somewhere(self) -> Iterator[None]:
        """Where this kind of run takes place."""
        torch.manual_seed(BY_HAND if self.kind == "seeded" else CHANCE)
        random.seed(BY_HAND if self.kind == "seeded" else 2)
        asked = {"gpu": (torch.cuda, "is_available"), "inference": (torch, "is_inference_mode_enabled")}.get(self.kind)
        real = getattr(*asked) if asked else None
        if asked:
            setattr(*asked, lambda: True)
        try:
            with another_day(self.module) if self.kind == "another day" else nullcontext():
                yield
        finally:
            if asked:
                setattr(*asked, real)
            THREADS.settle()

    def steps_stop(self) -> int:
        """A length beyond `long` at which the work has stopped growing, or 0. `odd_length`: one at which other things are done."""
        length, names = self.long[1], self._operations(self.long[1])
        usual, known = len(names) / length, set(names)
        for longer in LONGEST:
            try:
                more = self._operations(longer)
            except Exception:  # it takes no more tokens than that
                return 0
            if set(more) - known:
                self.odd_length = longer
            if (len(more) - len(names)) / (longer - length) < 0.25 * usual:
                return longer
            length, names = longer, more
        return 0

    def _operations(self, length: int) -> list[object]:
        counter = Counter()
        with torch.no_grad(), THREADS.recorded_by(counter):
            self.run(1, length)
        return list(counter.names())

    def calm(self) -> None:
        """Make weights and scales smaller, so that a gate that stands at its end for inputs as large as those at first can move."""
        norms = {p for m in self.model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
        with torch.no_grad():
            for p in self.model.parameters():
                if p.is_floating_point() and (p.dim() > 1 or p in norms):
                    p.mul_(CALMER)

    def counts(self) -> bool:
        """Does a run change the program's own numbers? If so, go on calling it until a count should be at its end."""
        before, size = list(_numbers(self.model, self.module)), (1, 3)
        try:
            self.run(*size)
        except Exception:  # it takes no input as small as that
            size = self.sizes
            self.run(*size)
        if before == list(_numbers(self.model, self.module)):
            return False
        for _ in range(LATER_CALLS):
            self.run(*size)
        return True


def _dense(grad: torch.Tensor) -> torch.Tensor:
    """A gradient with all its zeros: that of an embedding may be sparse."""
    return grad.to_dense() if grad.is_sparse else grad


def check_logits(logits: object, batch: int, length: int) -> None:
    if not isinstance(logits, torch.Tensor):
        raise Broken(f"forward returns {type(logits).__name__}, must be one tensor of logits")
    if logits.dim() != 3 or tuple(logits.shape[:2]) != (batch, length):
        raise Broken(f"logits have shape {list(logits.shape)}, must be [{batch}, {length}, vocab]")
    if not torch.isfinite(logits).all():
        raise Broken("logits are not finite")


def vocabulary(model: torch.nn.Module) -> int:
    default = inspect.signature(type(model).__init__).parameters.get("vocab_size")
    if default is not None and isinstance(default.default, int) and default.default > 0:
        return default.default
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    return sizes[0] if sizes else 256


def memory_class_of(module: ModuleType) -> tuple[type | None, str]:
    """(class or None, why it is none)."""
    cls = getattr(module, "NeuralMemory", None)
    if not isinstance(cls, type):
        return None, "the file defines no class NeuralMemory"
    if torch.nn.Module not in bases(cls):
        return None, "NeuralMemory is not an nn.Module"
    return cls, ""


def bases(cls: type) -> tuple[type, ...]:
    """A class and what it is made from; a metaclass has no say in it, as it has in isinstance."""
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return found


def quiet_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", 0.0)  # noqa: B010 (a float there, whatever nn.Module's types say)


def shake(model: torch.nn.Module) -> None:
    """A little noise where a trained parameter is zero or nearly so, so that no initialisation hides a dependence.

    Not where it is another constant: a clamp that it lies beyond is one that no gradient passes.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if not (p.requires_grad and p.is_floating_point() and p.numel()):
                continue
            if float(p.abs().max()) <= NEARLY_ZERO:
                p.add_((0.02 * torch.randn(p.shape, generator=generator)).to(p.dtype))


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max()) / (float(b.abs().max()) or 1.0) if a.shape == b.shape else 1.0


def _numbers(model: torch.nn.Module, module: ModuleType) -> Iterator[str]:
    """The program's own plain values: of its modules, its classes, its functions and itself."""
    own = [v for v in vars(module).values() if (v if isinstance(v, (type, FunctionType)) else type(v)).__module__ == module.__name__]
    owners: list[dict[str, Any]] = [vars(module), *map(_own_values, own), *(vars(m) for m in model.modules())]
    seen = 0
    for owner in owners:
        for key, value in list(owner.items()):
            if key not in ("training", "__builtins__") and seen < LOOKED_AT and (text := _plain(value)):
                seen += 1
                yield f"{key} {text}"
    for function in own:
        if isinstance(function, FunctionType):
            yield _plain([function.__defaults__, *(cell.cell_contents for cell in function.__closure__ or ())])


def _own_values(thing: object) -> dict[str, Any]:
    """Its `__dict__`, without asking the thing itself."""
    if isinstance(thing, type):
        return dict(type.__dict__["__dict__"].__get__(thing))
    try:
        return dict(object.__getattribute__(thing, "__dict__"))
    except AttributeError:
        return {}


def _plain(value: object, depth: int = 0) -> str:
    if isinstance(value, (int, float, str, bool)):
        return repr(value)[:80]
    if isinstance(value, torch.Tensor):
        return repr(value.detach().reshape(-1)[:2].tolist()) if not isinstance(value, torch.nn.Parameter) else ""
    if isinstance(value, (list, tuple, set, dict)) and depth < 3:
        items = list(value.items() if isinstance(value, dict) else value)[-8:]
        return f"{len(value)} " + " ".join(_plain(x, depth + 1) for x in items)
    return repr(value)[:80] if type(value).__module__ == "itertools" else ""


def last_try() -> ModuleType | None:
    """What there is of a submission that did not load to its end."""
    return sys.modules.get("submission")
