"""Runs a neural_memory submission and reports facts about it. Runs INSIDE the sandbox, beside untrusted code.

stdin: a JSON order with the nonce; descriptor 3: one JSON report that repeats it. What the submission prints goes to
stdout and stderr and is never read as a report.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from types import ModuleType
from typing import Any

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import memory_facts as facts
import memory_writes as writes
import seal
from guard import OURS, Guard
from memory_fusion import Fusion
from oplog import Graph, OpLog
from verdicts import no

SHORT, LONG = 7, 11
BATCH = 3


class Broken(Exception):
    """The submission does not keep its contract: the message says how."""


def load(path: str) -> ModuleType:
    """Import the submission as a module of its own name, so that its `__main__` part does not run."""
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module


def build(module: ModuleType) -> torch.nn.Module:
    cls = getattr(module, "MemoryTransformer", None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise Broken("the file defines no class MemoryTransformer(nn.Module)")
    torch.manual_seed(0)
    return cls()


def vocabulary(model: torch.nn.Module) -> int:
    default = inspect.signature(type(model).__init__).parameters.get("vocab_size")
    if default is not None and isinstance(default.default, int) and default.default > 0:
        return default.default
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    return sizes[0] if sizes else 256


def tokens_of(vocab: int, batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(length))


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))


def check_run(model: torch.nn.Module, vocab: int) -> None:
    """Forward at two lengths, backward at the contract's size. Raises Broken."""
    model.train()
    for batch, length in ((2, 16), (1, 9)):
        tokens = tokens_of(vocab, batch, length)
        logits = model(tokens)
        if not isinstance(logits, torch.Tensor):
            raise Broken(f"forward returns {type(logits).__name__}, must be one tensor of logits")
        if logits.dim() != 3 or tuple(logits.shape[:2]) != (batch, length):
            raise Broken(f"logits have shape {list(logits.shape)}, must be [{batch}, {length}, vocab]")
        if not torch.isfinite(logits).all():
            raise Broken("logits are not finite")
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_of(logits, tokens % logits.shape[-1]))
        if not any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()):
            raise Broken("backward gives no parameter a gradient")


def quiet_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", 0.0)  # noqa: B010 (a float there, whatever nn.Module's types say)


def shake(model: torch.nn.Module) -> None:
    """A little noise on every trained parameter, so that zero initialisation hides no dependence."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.is_floating_point():
                p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p.dtype))


def trace(model: torch.nn.Module, path: str, memory_class: type | None, vocab: int, length: int, *, last: int = 0) -> facts.Trace:
    """A facts.Trace of one training forward and backward pass; `last` changes the last token."""
    log = OpLog(path, lambda thing: memory_class is not None and isinstance(thing, memory_class))
    tokens = tokens_of(vocab, BATCH, length)
    tokens[:, -1] = (tokens[:, -1] + last) % vocab
    log.leaf(tokens, "tokens", "tokens")
    for name, p in model.named_parameters():
        log.leaf(p, "param", name)
    for name, b in model.named_buffers():
        log.leaf(b, "const", name)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    with log:
        logits = model(tokens)
    if log.overflow:
        raise OverflowError("more operations than can be read")
    if not any(node.lines for node in log.nodes):
        raise RuntimeError("no operation could be led back to a line of the submission")
    end = log.read(logits).i
    torch.autograd.backward(loss_of(logits, tokens), retain_graph=True)
    grads = {n: float(p.grad.abs().max()) for n, p in model.named_parameters() if p.grad is not None and p.numel()}
    return facts.Trace(Graph(log.nodes), length, end, grads)


def remembers_calls(model: torch.nn.Module, vocab: int) -> bool:
    """Does the same input get another answer after other calls?"""
    model.eval()
    answers = []
    with torch.no_grad():
        for length in (SHORT, LONG, SHORT):
            torch.manual_seed(3)
            answers.append(model(tokens_of(vocab, BATCH, length)))
    model.train()
    return not torch.allclose(answers[0], answers[2], rtol=1e-4, atol=1e-5)


def sees_future(first: facts.Trace, changed: facts.Trace) -> bool:
    """Do the states before the last token change with the last token?"""
    if not first.chain or not changed.chain:
        return False
    pairs = zip(first.chain.states[:-1], changed.chain.states[:-1], strict=False)
    return any(a.value is not None and b.value is not None and not torch.allclose(a.value, b.value, atol=1e-6) for a, b in pairs)


def memory_class_of(module: ModuleType) -> tuple[type | None, str]:
    """(class or None, why it is none)."""
    cls = getattr(module, "NeuralMemory", None)
    if not isinstance(cls, type):
        return None, "the file defines no class NeuralMemory"
    if not issubclass(cls, torch.nn.Module):
        return None, "NeuralMemory is not an nn.Module"
    return cls, ""


def verdicts(model: torch.nn.Module, module: ModuleType, path: str, vocab: int) -> dict[str, dict[str, Any]]:
    cls, why = memory_class_of(module)
    quiet_dropout(model)
    shake(model)
    habits = {"remembers_calls": remembers_calls(model, vocab)}
    short = trace(model, path, cls, vocab, SHORT)
    long = trace(model, path, cls, vocab, LONG)
    habits["sees_future"] = sees_future(short, trace(model, path, cls, vocab, SHORT, last=1))
    called = bool(short.memory_nodes)
    found = {
        "memory_class": no(why) if why else facts.memory_class(short, called),
        "surprise_gate": writes.surprise_gate(short),
        "learnable_decay": facts.learnable_decay(short),
        "outer_product": writes.outer_product(short, long),
        "recurrent_update": facts.recurrent_update(short, long, habits),
        "memory_attention_gating": Fusion(short).verdict(),
    }
    return {key: {"says": v.says, "text": v.text, "lines": v.lines, "category": v.category} for key, v in found.items()}


def examine(path: str) -> dict[str, Any]:
    """The report: runs, error, verdicts, tampered, trace_error."""
    report: dict[str, Any] = {"runs": False, "error": None, "verdicts": {}, "tampered": [], "trace_error": None, "n_parameters": 0}
    guard = Guard()
    seal.watch(*OURS)
    try:
        module = load(path)
        model = build(module)
        vocab = vocabulary(model)
        check_run(model, vocab)
        report["n_parameters"] = sum(p.numel() for p in model.parameters())
        report["runs"] = True
    except Broken as error:
        report["error"] = str(error)
    except BaseException as error:
        report["error"] = describe(error, path)
    if report["runs"]:
        try:
            report["verdicts"] = verdicts(model, module, path, vocab)
        except BaseException as error:
            report["trace_error"] = describe(error, path)
    report["tampered"] = guard.changed()
    return report


def describe(error: BaseException, path: str) -> str:
    """The last lines of the traceback, those of the submission only."""
    rows = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    where = f" (line {rows[-1].lineno})" if rows else ""
    return f"{type(error).__name__}: {error}{where}"[:2000]


def main() -> None:
    order, report = seal.take_order()
    torch.set_num_threads(1)
    report(examine(os.path.abspath(order["path"])))


if __name__ == "__main__":
    main()
