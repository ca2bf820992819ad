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
COMPLEX = {  # keys that turn, a decay inside the unit circle
    "init": "self.turn = nn.Parameter(torch.linspace(-0.3, 0.3, d))",
    "before": "k, q = (torch.polar(z, 3 * z) for z in (k, q))\nM = torch.zeros(B, D, D, dtype=torch.cfloat)",
    "gate": "torch.sigmoid(self.both(torch.cat([v[:, t], (v[:, t] - r).abs()], -1)))",
    "decay": "torch.polar(torch.sigmoid(self.decay).expand(D), self.turn)",
    "write": "torch.einsum('bi,bj->bij', v[:, t].cfloat(), k[:, t].conj())",
    "read": "torch.einsum('bij,bj->bi', M, q[:, t]).real",
}
WAYS = {
    "a state of complex numbers": program(**COMPLEX),
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
    assert grade(asks + program(gate=gate)).passed is False


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
    "import gc\ngc.collect()",
    "import sys\nsys.setrecursionlimit(9999)",
    "def f(a):\n    return locals()",
    "class C:\n    def __init_subclass__(cls, **more):\n        super().__init_subclass__(**more)",
    "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None",
)


@pytest.mark.parametrize("text", PLAIN)
def test_what_a_probe_hears_or_that_reaches_nothing_is_no_doubt(text):
    assert doubts(read_source(text), heard=True) == []


REACHING = (
    "import sys as s\ns.modules",
    "import sys\nx = sys",
    "__name__ = 'x'",
    "from types import FunctionType",
    "getattr = 1",
    "import gc\ngc.callbacks",
    "import gc as g\ng.collect()",
    "locals()",
    "open('flash.py')\ntry:\n    import flash\nexcept ImportError:\n    pass",
)


@pytest.mark.parametrize("text", REACHING)
def test_what_gets_round_the_hearing_is_a_doubt(text):
    assert doubts(read_source(text), heard=True)


def test_a_gate_within_glu_is_a_gate():
    update = "M = f * M + torch.einsum('bi,bj->bij', F.glu(torch.cat([v[:, t], s.expand(-1, D)], -1), -1), k[:, t])"
    check_passes(program(gate="self.both(torch.cat([v[:, t], r], -1))", update=update), "surprise_gate")


def test_a_call_that_python_makes_by_another_instruction_when_it_is_warm_is_in_the_same_place():
    check_passes(program(fuse="x = x + sum(w * y for w, y in ((g, a), (1 - g, m)))"), "recurrent_update")


def test_what_is_true_of_random_tokens_only_is_not_true():
    words = "((tokens >= 97) & (tokens <= 122)).float().mean() > 0.6"
    source = program(memory=f"self.mem(h) if not ({words}) else torch.zeros_like(h)")
    assert failed(source.replace("vocab_size=64", "vocab_size=256")) == set(ALL)
    assert failed(program(memory="self.mem(h) if (tokens[:, :2] != tokens[:, 3:5]).any() else torch.zeros_like(h)")) == set(ALL)


def test_what_is_true_until_the_first_step_of_an_optimizer_only_is_not_true():
    fresh = "self.decay._version == self.born"
    source = program(init="self.born = self.decay._version", decay=f"torch.sigmoid(self.decay) if {fresh} else 0.9")
    assert failed(source) == {"learnable_decay"}


def test_a_read_where_nothing_was_ever_written_is_no_retrieved_value():
    source = program(before="M = torch.zeros(B, D, 2 * D)\nwide, q = F.pad(k, (0, D)), torch.cat([q, q], -1)",
                     write="torch.einsum('bi,bj->bij', v[:, t], wide[:, t])")  # fmt: skip
    assert failed(source.replace('"bij,bj->bi", M, k[:, t]', '"bij,bj->bi", M, wide[:, t].roll(D, -1)')) == {"surprise_gate"}
    assert failed(source.replace('"bij,bj->bi", M, k[:, t]', '"bij,bj->bi", M, wide[:, t]')) == set()


def test_a_second_pass_from_the_end_sees_the_future():
    twice = "    def forward(self, x):\n        return self.way(x) + self.way(x.flip(1)).flip(1)\n\n    def way(self, x):\n        B, T"
    assert failed(program().replace("    def forward(self, x):\n        B, T", twice)) == {"recurrent_update"}


def test_logits_of_a_class_of_their_own_are_made_of_what_they_are_made_of():
    source = program().replace("return self.head(x)", "return self.head(x).as_subclass(Logits)")
    assert failed("import torch\nclass Logits(torch.Tensor):\n    pass\n" + source) == set()


def test_layers_that_one_line_runs_are_no_chain_of_states():
    layers = "nn.TransformerEncoder(nn.TransformerEncoderLayer(d, 4, d, 0.0, batch_first=True), 5)"
    source = program(memory="self.stack(self.mem(h))").replace("self.alpha =", f"self.stack = {layers}\n        self.alpha =")
    check_fails(source.replace("        B, T, D = x.shape\n", "        return x * self.decay\n"), "learnable_decay", because="no state")


def test_a_program_that_reaches_for_the_trace_has_no_pass_and_what_fails_anyway_is_told():
    reaching = "import gc\ngc.get_objects()\n"
    assert not any(c.passed for c in grade(reaching + program()).criteria)
    assert failed(reaching + program(decay="0.9")) == {"learnable_decay"}
    assert sum(bool(c.passed) for c in grade(reaching + program(decay="0.9")).criteria) == 5


def test_a_heap_that_is_written_over_hides_nothing():
    attack = (
        "for thing in gc.get_objects():\n"
        f"    if type(thing) is dict and thing.keys() & {set(ALL)}:\n"
        f"        thing.update(dict.fromkeys(thing.keys() & {set(ALL)}, True))\n"
        "x = x + g * a + (1 - g) * m"
    )
    assert failed("import gc\n" + program(fuse=attack, decay="0.9")) == {"learnable_decay"}


OWN_NAMES = (
    "def forward(self, input, dir=1):\n    return input + dir",
    "def f(x):\n    input = x\n    return input",
    "f = lambda vars: vars",
)
NOT_OWN = (
    "def f(x):\n    return exec(x)",
    "def f():\n    global eval\n    eval = 1\n    eval(2)",
    "def f(x):\n    [eval for eval in x]\n    eval(x)",
    "def f(vars):\n    def g():\n        global vars\n        del vars",
    "def f(eval):\n    class C:\n        x = eval\n        eval = 1",
)


@pytest.mark.parametrize("text", OWN_NAMES)
def test_an_argument_or_variable_called_as_a_built_in_is_no_doubt(text):
    assert doubts(read_source(text)) == []


@pytest.mark.parametrize("text", NOT_OWN)
def test_a_built_in_is_one_where_the_name_is_not_the_functions_own(text):
    assert doubts(read_source(text))


def test_sparse_gradients_of_an_embedding_are_gradients():
    assert failed(program().replace("nn.Embedding(vocab_size, d),", "nn.Embedding(vocab_size, d, sparse=True),")) == set()
    assert grade(program().replace("nn.Embedding(vocab_size, d),", "nn.Embedding(vocab_size, d, sparse=True),")).passed


def test_what_is_taken_is_given_back_and_what_stands_still_is_no_gate():
    source = program(
        init="self.decay = nn.Parameter(torch.ones(d, 1))",
        decay="self.decay.clamp(max=0.98)",
        gate=TO_ITSELF + "(torch.sigmoid(self.both(torch.cat([v[:, t], r], -1))))",
        fuse="y = g * a + (1 - g) * m\nx = x + torch.addcmul(y + a, g, a, value=-1)",
    )
    assert failed(source) == {"learnable_decay", "surprise_gate", "memory_attention_gating"}


def test_a_read_that_cancels_out_and_attention_over_nothing_count_for_nothing():
    source = program(memory="(lambda y: y - y.detach() + self.mem.out(self.mem.v(h)))(self.mem(h))")
    assert failed(source.replace("self.attn(h, h, h,", "self.attn(h, h, 0 * h,")) >= {*ALL} - {"memory_class"}
    assert failed(program().replace("attn_mask=mask", "attn_mask=~torch.eye(T, dtype=torch.bool)")) == {"memory_attention_gating"}


@pytest.mark.parametrize("condition", ["t % 2 == 0", "torch.initial_seed() < 2**32"])
def test_what_holds_at_some_tokens_or_after_a_seed_only_does_not_hold(condition):
    gate = f"torch.sigmoid(self.both(torch.cat([v[:, t], r if {condition} else v[:, t]], -1)))"
    assert failed(program(gate=gate)) == {"surprise_gate"}


CLOCKS = {
    "time.monotonic() - START < 60": "import time\nSTART = time.monotonic()",
    "now_ns() < START + 86_400 * 10**9": "from time import time_ns as now_ns\nSTART = now_ns()",
    "datetime.now() < START": "from datetime import datetime, timedelta\nSTART = datetime.now() + timedelta(days=30)",
}


@pytest.mark.parametrize("condition", CLOCKS)
def test_what_holds_for_a_while_only_does_not_hold(condition):
    gate = f"torch.sigmoid(self.both(torch.cat([v[:, t], r if {condition} else v[:, t]], -1)))"
    assert failed(program(gate=gate).replace("import math", CLOCKS[condition])) == {"surprise_gate"}


def test_mistakes_are_mended_one_after_another_and_all_is_told():
    source = program(
        write="torch.outer(v[:, t], k[:, t])",
        decay="torch.sigmoid(self.decay_rate)",
        update="M = f * M + s * w",
        gate="torch.sigmoid(self.k(v[:, t] - r))",
    )
    source = source.replace("n_heads=4", "n_heads=5").replace("batch_first=True)", "batch_first=True, causal=True)")
    found = grade("```python\n" + source.replace("import math\n", "from einops import rearrange\n") + "```\n")
    assert (found.runs, found.passed) == (False, False)
    assert {c.key: c.rationale for c in found.criteria if not c.passed} == {}
    for mend in (
        "fence",
        "einops",
        "causal= left out",
        "other numbers",
        ".decay_rate taken as .decay",
        "outer product for each",
        "where they fit",
    ):
        assert mend in found.criteria[0].rationale


def test_a_tuple_of_logits_and_a_gpu_that_is_not_there_hide_nothing_else():
    source = program(before="M = torch.zeros(B, D, D, device='cuda')").replace("return self.head(x)", "return self.head(x), None")
    found = grade(source)
    assert found.runs is False and all(c.passed for c in found.criteria)
