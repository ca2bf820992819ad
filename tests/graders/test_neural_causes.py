"""Ways of writing a memory, and of hiding that there is none, that the neural memory grader once misjudged."""

import pytest

from graders.code.source import doubts, read_source
from tests.graders.checks import check_fails, check_passes, grade, program

ALL = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")
RIGHT = "M = f * M + s.unsqueeze(-1) * w"


def failed(source: str) -> set[str]:
    return {c.key for c in grade(source).criteria if c.passed is False}


RECURSION = (
    "def go(t, M):\n"
    "    if t == T:\n"
    "        return []\n"
    "    r = torch.tensordot(k[:, t].unsqueeze(1) * M, torch.ones(D), dims=([2], [0]))\n"
    "    s = torch.sigmoid(self.both(torch.cat([v[:, t], r], -1)))\n"
    "    M = torch.sigmoid(self.decay) * M + s.unsqueeze(-1) * torch.einsum('bi,bj->bij', v[:, t], k[:, t])\n"
    "    return [torch.einsum('bij,bj->bi', M, q[:, t]), *go(t + 1, M)]\n"
    "return self.out(torch.stack(go(0, M), 1))"
)
FUNCTION = (
    "class Step(torch.autograd.Function):\n"
    "    @staticmethod\n"
    "    def forward(ctx, M, d, w):\n"
    "        ctx.save_for_backward(M, d.sigmoid())\n"
    "        return d.sigmoid() * M + w\n"
    "    @staticmethod\n"
    "    def backward(ctx, g):\n"
    "        M, f = ctx.saved_tensors\n"
    "        return g * f, (g * M).sum() * f * (1 - f), g"
)
FLAT = {
    "before": "M = torch.zeros(B, D * D)",
    "write": "v[:, t].repeat_interleave(D, 1) * k[:, t].repeat(1, D)",
    "update": "M = f * M + s * w",
    "read": "(M.view(B, D, D) @ q[:, t].unsqueeze(-1)).squeeze(-1)",
}
WAYS = {
    "a recursion in place of a loop, read by a product with ones": program(before=RECURSION),
    "a step with a backward pass of its own": program(before=FUNCTION, update="M = Step.apply(M, self.decay, s.unsqueeze(-1) * w)"),
    "a matrix laid out as a vector": program(**FLAT).replace('"bij,bj->bi", M, k', '"bij,bj->bi", M.view(B, D, D), k'),
    "a normaliser that divides what is read": program(
        before="z = torch.ones(B, D)",
        update="z = f * z + s * k[:, t].abs()\n" + RIGHT,
        read="torch.einsum('bij,bj->bi', M, q[:, t]) / (1e-1 + (z * q[:, t].abs()).sum(-1, keepdim=True))",
    ),
    "a compiled model": program() + "\nMemoryTransformer.forward = torch.compile(MemoryTransformer.forward)\n",
}


@pytest.mark.parametrize("source", WAYS.values(), ids=WAYS)
def test_all_six_are_found_in(source):
    assert {c.key: c.rationale for c in grade(source).criteria if not c.passed} == {}


def test_a_gate_that_starts_saturated_is_judged_where_it_moves():
    gate = "torch.sigmoid(self.weights @ (3 * (v[:, t] - r)).square().T).unsqueeze(-1)"
    check_passes(program(gate=gate, init="self.weights = nn.Parameter(torch.ones(d))"), "surprise_gate")


def test_a_vector_is_read_element_by_element():
    source = program(before="M = torch.zeros(B, D)", write="v[:, t] * k[:, t]", update="M = f * M + s * w", read="M * q[:, t]")
    source = source.replace('torch.einsum("bij,bj->bi", M, k[:, t])', "M * k[:, t]")
    check_passes(source, "surprise_gate")
    check_fails(source, "outer_product", because="one vector")


def test_a_state_of_segments_has_a_decay_and_no_step_per_token():
    segments = (
        "y = []\nfor i in range(0, T, 4):\n    ks, vs = k[:, i:i+4], v[:, i:i+4]\n    y.append(q[:, i:i+4] @ M)\n"
        "    M = torch.sigmoid(self.decay) * M + ks.transpose(1, 2) @ vs\nreturn self.out(torch.cat(y, 1))"
    )
    check_passes(program(before=segments), "learnable_decay")
    check_fails(program(before=segments), "outer_product", because="rank")
    check_fails(program(before=segments), "recurrent_update", because="not one step per token")


TO_ITSELF = "(lambda p: p / p.detach().clamp_min(1e-9))"
CONSTANT = {
    "learnable_decay": program(decay=TO_ITSELF + "(torch.sigmoid(self.decay)) * 0.9"),
    "memory_attention_gating": program(blend_gate=TO_ITSELF + "(torch.sigmoid(self.g(h))) * 0.5"),
}


@pytest.mark.parametrize("criterion", CONSTANT)
def test_what_is_divided_by_itself_is_a_constant_whatever_its_gradient(criterion):
    assert failed(CONSTANT[criterion]) == {criterion}


def test_a_memory_that_is_there_only_under_gradients_or_in_training_fails_all():
    for condition in ("torch.is_grad_enabled()", "self.training"):
        assert failed(program(memory=f"self.mem(h) if {condition} else torch.zeros_like(h)")) == set(ALL)


def test_writing_that_ends_after_some_tokens_is_no_chain_that_grows():
    assert failed(program(update="M = f * M + (t < 16) * s.unsqueeze(-1) * w")) == {"recurrent_update"}
    check_fails(program(before="T = min(T, 24)").replace("torch.stack(reads, 1)", "torch.cat([torch.stack(reads, 1), x[:, T:]], 1)"),
                "recurrent_update", because="no more steps")  # fmt: skip


def test_a_program_that_counts_its_calls_in_an_object_of_its_own_is_judged_by_the_later_ones():
    meter = "class Meter:\n    n = 0\nmeter = Meter()\n"
    source = meter + program(memory="self.mem(h) if meter.n < 40 else h").replace(
        "        h = self.ln(x)", "        h = self.ln(x)\n        meter.n += 1"
    )
    assert "memory_class" in failed(source)


def test_a_program_that_looks_for_a_recorder_finds_none():
    asks = "import torch.utils._python_dispatch as d\nwatched = d._get_current_dispatch_mode_stack\n"
    gate = "torch.sigmoid(self.both(torch.cat([v[:, t], r], -1)) if watched() else self.net(x[:, t]))"
    assert failed(asks + program(gate=gate)) == {"surprise_gate"}
    assert not any(c.passed for c in grade(asks + program(gate=gate)).criteria)


def test_a_forgotten_import_hides_nothing_else():
    found = grade(program(init="self.scale = math.sqrt(d)").replace("import math\n", ""))
    assert (found.runs, found.passed) == (False, False) and "math" in (found.error or "")
    assert all(c.passed and c.rationale.startswith("with math imported") for c in found.criteria)


def test_a_view_of_what_lies_in_pieces_hides_nothing_else():
    found = grade(program(memory="self.mem(h).mT.view(x.shape[0], T, -1)"))
    assert found.runs is False and all(c.passed and "taken as reshape" in c.rationale for c in found.criteria)


def test_a_forward_pass_that_leaves_the_process_computes_nothing():
    found = grade("import os\n" + program(fuse="os._exit(0)"))
    assert found.runs is False and {c.passed for c in found.criteria} == {False}


PLAIN = (
    "from torch.nn.utils import parametrize",
    "from types import SimpleNamespace\nc = SimpleNamespace(d=64)",
    "for n in ('a', 'b'): setattr(self, n, getattr(self, n + '_proj'))",
    "import functools\n@functools.wraps(f)\ndef g(): pass",
    "import sys\nold = 'x' in sys.modules or {n for n in sys.modules}",
    "class C(dict):\n    __getattr__ = dict.__getitem__",
    "if __name__ == '__main__':\n    torch.save(torch.load('x'), 'y')",
    "torch.jit.script_if_tracing(f)",
    "import atexit\natexit.register(print)",
)


@pytest.mark.parametrize("text", PLAIN)
def test_what_a_probe_hears_or_that_reaches_nothing_is_no_doubt(text):
    assert doubts(read_source(text), heard=True) == []


REACHING = ("import sys as s\ns.modules", "import sys\nx = sys", "__name__ = 'x'", "from types import FunctionType", "getattr = 1")


@pytest.mark.parametrize("text", REACHING)
def test_what_gets_round_the_hearing_is_a_doubt(text):
    assert doubts(read_source(text), heard=True)
