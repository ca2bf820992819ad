"""The six criteria of neural_memory: what passes in any style, and near misses that must not."""

import pytest

from tests.graders import styles
from tests.graders.checks import PARTS, check_fails, check_never_passes, check_passes, grade, program

ALL = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")


def test_a_right_program_passes_all_six():
    found = grade(program())
    assert found.passed and found.score == 10.0 and found.failure_category == ""


@pytest.mark.parametrize("source", [styles.STEPWISE, styles.INHERITED], ids=["stepwise", "inherited"])
def test_all_six_are_found_in_other_styles(source):
    found = grade(source)
    assert {c.key: c.rationale for c in found.criteria if not c.passed} == {}


def test_the_delta_rule_in_matrix_form_writes_a_product_and_has_no_decay():
    check_fails(styles.DELTA_MATRIX, "surprise_gate", because="sees the input alone")
    check_fails(styles.DELTA_MATRIX, "learnable_decay", because="not learned")
    for criterion in ("memory_class", "outer_product", "recurrent_update"):
        check_passes(styles.DELTA_MATRIX, criterion)


def test_a_memory_of_one_vector_has_no_outer_product():
    check_fails(styles.VECTOR, "outer_product", because="one vector")
    check_fails(styles.VECTOR, "surprise_gate", because="sees the input alone")
    check_fails(styles.VECTOR, "memory_attention_gating", because="not blended")


def test_evidence_points_at_lines_of_the_submission():
    source = program()
    rows = grade(source).criteria
    lines = source.splitlines()
    assert all(e.line_start and e.text == lines[e.line_start - 1].strip()[:200] for row in rows for e in row.evidence)


# --- surprise gate ---

SURPRISE = {
    "error of the value": "torch.sigmoid(self.net(v[:, t] - r))",
    "error squared": "torch.sigmoid(self.net((r - v[:, t]) ** 2))",
    "two layers": "torch.sigmoid(self.net(torch.tanh(v[:, t] - r)))",
    "mean of a wide gate": "torch.sigmoid(self.k(v[:, t] - r)).mean(-1, keepdim=True)",
    "functional linear": "F.linear(v[:, t] - r, self.net.weight).sigmoid()",
    "norm through a learned scale": "torch.sigmoid(self.net.bias * (v[:, t] - r).norm(dim=-1, keepdim=True))",
}


@pytest.mark.parametrize("gate", SURPRISE.values(), ids=SURPRISE)
def test_a_gate_that_compares_input_and_retrieved_value_is_a_surprise_gate(gate):
    check_passes(program(gate=gate), "surprise_gate")


@pytest.mark.parametrize("read", ["(M * k[:, t].unsqueeze(1)).sum(-1)", "(M @ k[:, t].unsqueeze(-1)).squeeze(-1)"])
def test_the_way_of_reading_makes_no_difference(read):
    check_passes(program(gate=f"torch.sigmoid(self.net(v[:, t] - {read}))"), "surprise_gate")


def test_a_gate_on_the_value_before_the_product_scales_the_write():
    source = program(write="torch.bmm((s * v[:, t]).unsqueeze(2), k[:, t].unsqueeze(1))", update="M = f * M + w")
    check_passes(source, "surprise_gate")
    check_passes(source, "outer_product")


def test_a_gate_of_the_input_alone_is_generic():
    source = program(gate="torch.sigmoid(self.net(x[:, t]))")
    check_fails(source, "surprise_gate", because="sees the input alone")
    assert grade(source).failure_category == "generic_gate"


def test_a_gate_of_the_retrieved_value_alone_fails():
    check_fails(program(gate="torch.sigmoid(self.net(r))"), "surprise_gate", because="retrieved value alone")


def test_a_delta_rule_without_sigmoid_has_no_surprise_gate():
    source = program(gate="torch.ones(B, 1)", write="torch.einsum('bi,bj->bij', v[:, t] - r, k[:, t])", update="M = f * M + w")
    check_fails(source, "surprise_gate", because="no gate")
    check_passes(source, "outer_product")


def test_a_delta_rule_with_a_generic_gate_fails():
    source = program(gate="torch.sigmoid(self.net(x[:, t]))", write="torch.einsum('bi,bj->bij', v[:, t] - r, k[:, t])")
    check_fails(source, "surprise_gate", because="sees the input alone")


NO_SURPRISE = {
    "error computed and multiplied by zero": "torch.sigmoid(self.net(x[:, t] + 0 * (v[:, t] - r)))",
    "error made faint": "torch.sigmoid(self.net(x[:, t] + 1e-9 * (v[:, t] - r)))",
    "fixed threshold": "((v[:, t] - r).norm(dim=-1, keepdim=True) > 1).float()",
    "no learned part": "torch.sigmoid((v[:, t] - r).norm(dim=-1, keepdim=True))",
    "no gradient": "torch.sigmoid(self.net(v[:, t] - r)).detach()",
    "mean of the state": "torch.sigmoid(self.net(x[:, t]) + M.mean(dim=(1, 2)).unsqueeze(-1))",
}


@pytest.mark.parametrize("gate", NO_SURPRISE.values(), ids=NO_SURPRISE)
def test_what_only_looks_like_surprise_does_not_pass(gate):
    check_never_passes(program(gate=gate), "surprise_gate")


def test_a_surprise_that_scales_the_read_does_not_pass():
    check_never_passes(program(update="M = f * M + w", read="s * torch.einsum('bij,bj->bi', M, q[:, t])"), "surprise_gate")


def test_a_surprise_that_only_forgets_does_not_pass():
    check_never_passes(program(update="M = f * (1 - s).unsqueeze(-1) * M + w"), "surprise_gate")


HAND_WRITTEN = {
    "exponential": "1 / (1 + torch.exp(-self.net(v[:, t] - r)))",
    "tanh": "0.5 * (torch.tanh(self.net(v[:, t] - r)) + 1)",
    "softmax of two": "torch.softmax(torch.cat([self.net(v[:, t] - r), torch.zeros(B, 1)], -1), -1)[..., :1]",
}


@pytest.mark.parametrize("gate", HAND_WRITTEN.values(), ids=HAND_WRITTEN)
def test_a_sigmoid_is_what_computes_one(gate):
    check_passes(program(gate=gate), "surprise_gate")


def test_momentum_over_gated_writes_is_decided():
    source = program(
        init="self.eta = nn.Parameter(torch.tensor(0.0))",
        before="S = torch.zeros(B, D, D)",
        update="S = self.eta.sigmoid() * S + s.unsqueeze(-1) * w\nM = f * M + S",
    )
    for criterion in ALL:
        check_passes(source, criterion)


def test_a_state_that_all_sequences_share_is_not_recurrent():
    source = program(
        before="M = torch.zeros(D, D)",
        write="torch.einsum('bi,bj->ij', s * v[:, t], k[:, t])",
        update="M = f * M + w",
        read="torch.einsum('ij,bj->bi', M, q[:, t])",
    ).replace('"bij,bj->bi", M, k', '"ij,bj->bi", M, k')
    check_fails(source, "recurrent_update", because="one sequence of a batch")
    check_fails(source, "outer_product", because="rank")


# --- decay ---

DECAYS = {
    "raw parameter": "self.decay",
    "exp of softplus": "torch.exp(-F.softplus(self.decay))",
    "one minus": "1 - torch.sigmoid(-self.decay)",
    "clamped": "self.decay.clamp(0, 0.99) * 0.5 + self.decay * 0.1",
    "forget gate": "torch.sigmoid(self.forget(x[:, t])).unsqueeze(-1)",
}


@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)
def test_a_parameter_that_scales_the_carried_state_is_a_learnable_decay(decay):
    check_passes(program(decay=decay), "learnable_decay")


def test_decay_in_place_and_by_subtraction_passes():
    check_passes(program(update="M = M - (1 - f) * M + s.unsqueeze(-1) * w"), "learnable_decay")
    check_passes(program(update="M = M.mul(f).add(s.unsqueeze(-1) * w)"), "learnable_decay")


def test_decay_of_state_and_write_together_passes():
    check_passes(program(update="M = f * (M + s.unsqueeze(-1) * w)"), "learnable_decay")


NO_DECAY = {
    "constant": ("0.95", "constant 0.95"),
    "none": ("1.0", "not scaled"),
    "read with item": ("torch.sigmoid(self.decay).item()", "constant"),
    "detached": ("torch.sigmoid(self.decay).detach()", "detached"),
    "data": ("torch.sigmoid(self.decay.data)", ""),
}


@pytest.mark.parametrize(("decay", "because"), NO_DECAY.values(), ids=NO_DECAY)
def test_a_decay_that_can_not_learn_fails(decay, because):
    check_fails(program(decay=decay), "learnable_decay", because=because)


def test_a_frozen_parameter_is_a_fixed_decay():
    source = program(init="self.decay.requires_grad_(False)")
    check_fails(source, "learnable_decay", because="not learned")
    assert grade(source).failure_category == "fixed_decay"


def test_a_buffer_is_a_fixed_decay():
    source = program(init="self.register_buffer('rate', torch.tensor(0.9))", decay="self.rate")
    check_fails(source, "learnable_decay", because="not learned")


def test_a_parameter_on_the_write_or_the_read_is_no_decay():
    check_fails(program(update="M = M + f * s.unsqueeze(-1) * w"), "learnable_decay", because="not scaled")
    check_fails(program(update="M = 0.9 * M + w", read="f * torch.einsum('bij,bj->bi', M, q[:, t])"), "learnable_decay", because="constant")


def test_a_state_beside_another_is_not_mistaken_for_it():
    """A normalizer is carried too, without gate: the matrix decides."""
    source = program(
        before="z = torch.zeros(B, D)",
        update="z = z + k[:, t]\nM = f * M + s.unsqueeze(-1) * w",
        read="(M @ q[:, t, :, None])[..., 0] / (1 + z)",
    )
    for criterion in ALL:
        check_passes(source, criterion)


def test_a_parameter_without_effect_does_not_pass():
    check_never_passes(program(decay="0.95 + 0 * self.decay"), "learnable_decay")


# --- outer product ---

OUTERS = {
    "einsum": "torch.einsum('bi,bj->bij', v[:, t], k[:, t])",
    "broadcast": "v[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)",
    "none index": "v[:, t, :, None] * k[:, t, None, :]",
    "matmul": "v[:, t].unsqueeze(-1) @ k[:, t].unsqueeze(1)",
    "bmm": "torch.bmm(v[:, t].unsqueeze(2), k[:, t].unsqueeze(1))",
    "key first": "torch.einsum('bi,bj->bji', v[:, t], k[:, t]).transpose(1, 2)",
    "one sequence at a time": "torch.stack([torch.outer(a, b) for a, b in zip(v[:, t], k[:, t])])",
}


@pytest.mark.parametrize("write", list(OUTERS.values())[:-1], ids=list(OUTERS)[:-1])
def test_a_column_times_a_row_is_an_outer_product(write):
    check_passes(program(write=write), "outer_product")


def test_products_made_for_all_tokens_beforehand_pass():
    check_passes(program(before="kv = torch.einsum('bti,btj->btij', v, k)", write="kv[:, t]"), "outer_product")


def test_in_place_and_fused_updates_pass():
    check_passes(program(update="M = torch.baddbmm(f * M, (s * v[:, t]).unsqueeze(2), k[:, t].unsqueeze(1))"), "outer_product")


NOT_OUTER = {
    "elementwise": "torch.diag_embed(v[:, t] * k[:, t])",
    "a linear layer": "self.big(x[:, t]).view(B, D, D)",
    "with itself": "torch.einsum('bi,bj->bij', v[:, t], v[:, t])",
    "a broadcast vector": "v[:, t].unsqueeze(-1).expand(B, D, D)",
}


@pytest.mark.parametrize("write", NOT_OUTER.values(), ids=NOT_OUTER)
def test_what_is_no_product_of_value_and_key_does_not_pass(write):
    check_never_passes(program(init="self.big = nn.Linear(d, d * d)", write=write), "outer_product")


def test_the_product_of_a_vector_with_itself_fails():
    check_fails(program(write=NOT_OUTER["with itself"]), "outer_product", because="itself")


def test_a_linear_layer_that_predicts_the_write_fails():
    check_fails(program(init="self.big = nn.Linear(d, d * d)", write=NOT_OUTER["a linear layer"]), "outer_product", because="rank")


def test_a_product_that_is_not_added_does_not_pass():
    source = program(init="self.big = nn.Linear(d, d * d)", update="M = f * M + self.big(x[:, t]).view(B, D, D)")
    check_never_passes(source, "outer_product")


# --- recurrence ---


@pytest.mark.parametrize(
    "loop", ["M = f * M + s.unsqueeze(-1) * w", "M = torch.lerp(w, M, f) + s.unsqueeze(-1) * w", "M = (f * M).add(s.unsqueeze(-1) * w)"]
)
def test_a_state_carried_through_the_loop_is_recurrent(loop):
    check_passes(program(update=loop), "recurrent_update")


def test_a_state_made_anew_at_each_step_does_not_pass():
    check_never_passes(program(update="M = f * torch.zeros(B, D, D) + w"), "recurrent_update")


def test_an_update_that_is_not_assigned_does_not_pass():
    check_never_passes(program(update="f * M + s.unsqueeze(-1) * w"), "recurrent_update")


def test_a_state_that_outlives_the_call_fails():
    source = program(init="self.S = None", before="M = self.S if self.S is not None else M", update="M = f * M + w\nself.S = M.detach()")
    check_fails(
        source.replace("M = torch.zeros(B, D, D)", "M = torch.zeros(3, D, D)[:B] if B < 3 else torch.zeros(B, D, D)").replace(
            "self.S if self.S is not None", "self.S if self.S is not None and len(self.S) == B"
        ),
        "recurrent_update",
        because="earlier calls",
    )


def test_a_loop_backwards_through_time_does_not_pass():
    check_never_passes(program(before="q, k, v, x = q.flip(1), k.flip(1), v.flip(1), x.flip(1)"), "recurrent_update")


def test_one_update_for_the_whole_sequence_is_not_recurrent():
    source = program(before="M = torch.einsum('bti,btj->bij', v, k)\nreturn self.out(torch.einsum('bij,btj->bti', M, q))")
    check_fails(source, "recurrent_update", because="no step per token")
    assert grade(source).failure_category == "not_recurrent"


# --- blend ---

BLENDS = {
    "other way round": "x = x + g * m + (1 - g) * a",
    "lerp": "x = x + torch.lerp(m, a, g)",
    "difference": "x = x + m + g * (a - m)",
    "without residual": "x = g * a + (1 - g) * m",
    "stream after attention": "x = x + a\nx = g * x + (1 - g) * m",
    "norm after": "x = self.ln(x + (1.0 - g) * m + g * a)",
    "three terms": "x = x + a + g * m - g * a",
    "named complement": "h2 = 1 - g\nx = x + g * a + h2 * m",
    "gate of both": "g = torch.sigmoid(self.gc(torch.cat([a, m], -1)))\nx = x + g * a + (1 - g) * m",
    "scalar gate": "g = torch.sigmoid(self.two(h))[..., :1]\nx = x + g * a + (1 - g) * m",
    "addcmul": "x = x + torch.addcmul(m, g, a - m)",
    "projected": "x = x + self.g2(g * a + (1 - g) * m)",
    "softmax of two": "g = torch.softmax(self.two(h), -1)\nx = x + g[..., :1] * a + g[..., 1:] * m",
    "one learned rate": "g = torch.sigmoid(self.alpha)\nx = x + g * a + (1 - g) * m",
    "memory of attended stream": "y = x + a\nm = self.mem(self.ln(y))\nx = y + g * a + (1 - g) * m",
}


@pytest.mark.parametrize("fuse", BLENDS.values(), ids=BLENDS)
def test_one_gate_and_its_complement_pass_in_every_way_of_writing(fuse):
    check_passes(program(fuse=fuse), "memory_attention_gating")


FUSIONS = {
    "plain sum": ("x = x + a + m", "residual_fusion"),
    "gated residual": ("x = x + a + g * m", "residual_fusion"),
    "two gates": ("x = x + g * a + torch.sigmoid(self.g2(h)) * m", "residual_fusion"),
    "same gate on both": ("x = x + g * a + g * m", "residual_fusion"),
    "concatenation": ("x = x + self.cat(torch.cat([a, m], -1))", "concat_fusion"),
    "gated concatenation": ("x = x + self.cat(torch.cat([g * a, g * m], -1))", "concat_fusion"),
    "unused blend": ("y = g * a + (1 - g) * m\nx = x + a + m", "residual_fusion"),
}


@pytest.mark.parametrize(("fuse", "category"), FUSIONS.values(), ids=FUSIONS)
def test_other_fusions_fail_and_are_named(fuse, category):
    source = program(fuse=fuse)
    check_fails(source, "memory_attention_gating", because="not blended by a gate")
    assert grade(source).failure_category == category


def test_concatenation_of_complements_does_not_pass():
    check_never_passes(program(fuse="x = x + self.cat(torch.cat([g * a, (1 - g) * m], -1))"), "memory_attention_gating")


NO_BLEND = {
    "constant gate": ("torch.full_like(h, 0.5)", "x = x + g * a + (1 - g) * m"),
    "gate stuck at one": ("torch.sigmoid(self.g(h) + 30)", "x = x + g * a + (1 - g) * m"),
    "show blend": ("torch.sigmoid(self.g(h))", "x = x + a + m + 1e-6 * (g * a + (1 - g) * m)"),
    "no gradient": ("torch.sigmoid(self.g(h)).detach()", "x = x + g * a + (1 - g) * m"),
}


@pytest.mark.parametrize(("gate", "fuse"), NO_BLEND.values(), ids=NO_BLEND)
def test_what_only_looks_like_a_blend_does_not_pass(gate, fuse):
    check_never_passes(program(blend_gate=gate, fuse=fuse), "memory_attention_gating")


def test_a_blend_with_the_stream_before_attention_fails():
    check_fails(program(fuse="x = g * x + (1 - g) * m\nx = x + a"), "memory_attention_gating", because="attention has no part in")


def test_two_gates_that_start_as_complements_are_two_gates():
    source = program(fuse="x = x + g * a + torch.sigmoid(self.g2(h)) * m").replace(
        "        self.head =",
        "        self.g2.weight.data = -self.g.weight.data\n        self.g2.bias.data = -self.g.bias.data\n        self.head =",
    )
    check_fails(source, "memory_attention_gating", because="not blended by a gate")


def test_the_grade_tells_the_memory_over_the_tokens():
    course = grade(program()).course
    assert {name: len(series) for name, series in course.items()} == {"state_norm": 19, "write_gate": 19, "blend_gate": 19}


# --- class ---


def test_a_memory_under_another_name_fails():
    check_fails(program().replace("NeuralMemory", "Store"), "memory_class", because="no class NeuralMemory")


def test_a_memory_that_is_built_and_never_called_fails():
    check_fails(program(memory="self.g2(h)"), "memory_class", because="never called")


def test_a_memory_whose_result_is_thrown_away_fails():
    check_fails(program(memory="self.mem(h)\nm = self.g2(h)"), "memory_class", because="does not reach the logits")


def test_a_stub_fails():
    source = program(before="return x")
    check_fails(source, "memory_class", because="does not reach the logits")


def test_a_memory_that_is_a_layer_on_each_token_is_none():
    check_fails(program(before="return self.out(v)"), "memory_class", because="keeps nothing")
    check_fails(program(before="return self.out(v)"), "memory_attention_gating", because="no memory")


def test_a_memory_used_through_its_methods_passes():
    source = program().replace("def forward(self, x):\n        B, T, D", "def recall(self, x):\n        B, T, D", 1)
    check_passes(source.replace("self.mem(h)", "self.mem.recall(h)"), "memory_class")


def test_a_memory_without_gradient_learns_nothing():
    source = program(memory="self.mem(h).detach()")
    for criterion in ("surprise_gate", "learnable_decay"):
        check_never_passes(source, criterion)
    for criterion in ("outer_product", "recurrent_update"):  # decided by values
        check_passes(source, criterion)


def test_a_memory_with_next_to_no_effect_does_not_pass():
    check_never_passes(program(memory="1e-12 * self.mem(h)"), "memory_class")


# --- running ---

BROKEN = {
    "wrong shape": ("logits have shape", {"fuse": "x = (x + m + a)[:, 0]"}),
    "raises": ("ValueError", {"fuse": "raise ValueError('no')"}),
    "not a number": ("not finite", {"fuse": "x = x + float('nan')"}),
    "one length only": ("RuntimeError", {"fuse": "x = x + torch.zeros(2, 16, 32) + m"}),
}


@pytest.mark.parametrize(("because", "parts"), BROKEN.values(), ids=BROKEN)
def test_a_program_that_breaks_its_contract_does_not_run(because, parts):
    found = grade(program(**parts))
    assert (found.runs, found.passed, found.failure_category) == (False, False, "crash")
    assert because in (found.error or "")
    assert {c.unscored_reason for c in found.criteria} <= {"", "does_not_run"}  # what can be mended is judged


# --- programs that could alter their own trace ---

DOUBTFUL = (
    "import gc; gc.get_objects()",
    "import ctypes",
    "import inspect; inspect.stack()",
    "from torch.utils._python_dispatch import TorchDispatchMode",
    "exec('y = 1')",
    "torch.sigmoid = torch.sigmoid",
    "import sys; sys.modules.get('x')",
    "setattr(torch, 'x1', 1)",
    "import importlib",
)


@pytest.mark.parametrize("line", DOUBTFUL)
def test_a_program_with_means_to_alter_its_trace_gets_no_pass(line):
    found = grade(program() + "\n" + line + "\n")
    assert found.passed is None
    assert not any(c.passed for c in found.criteria)


def test_replaced_torch_functions_are_noticed_whatever_the_way():
    source = program() + "\nt = torch\nold = t.sigmoid\nt.sigmoid = lambda z: old(z)\n"
    assert not any(c.passed for c in grade(source).criteria)
    assert "replaced torch.sigmoid" in grade(source).criteria[0].rationale


def test_the_parts_of_the_program_are_all_in_use():
    assert all("{" + name + "}" not in program() for name in PARTS)
