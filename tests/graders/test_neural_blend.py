"""Near misses of neural_memory, two criteria in a program: blends, decays and gates that are none."""

from itertools import zip_longest

import pytest

from tests.graders.checks import PARTS, check_fails, check_never_passes, grade, program

FUSIONS = {
    "plain sum": ("x = x + a + m", "residual_fusion"),
    "gated residual": ("x = x + a + g * m", "residual_fusion"),
    "two gates": ("x = x + g * a + torch.sigmoid(self.g2(h)) * m", "residual_fusion"),
    "same gate on both": ("x = x + g * a + g * m", "residual_fusion"),
    "concatenation": ("x = x + self.cat(torch.cat([a, m], -1))", "concat_fusion"),
    "gated concatenation": ("x = x + self.cat(torch.cat([g * a, g * m], -1))", "concat_fusion"),
    "unused blend": ("y = g * a + (1 - g) * m\nx = x + a + m", "residual_fusion"),
}
# Beside each, where there are as many, a decay that can't learn: the two are told apart.
NO_DECAY = {
    "constant": ("0.95", "constant 0.95"),
    "none": ("1.0", "not scaled"),
    "read with item": ("torch.sigmoid(self.decay).item()", "constant"),
    "detached": ("torch.sigmoid(self.decay).detach()", "detached"),
    "data": ("torch.sigmoid(self.decay.data)", ""),
}


@pytest.mark.parametrize(("fusion", "decay"), list(zip_longest(FUSIONS.values(), NO_DECAY.values())), ids=FUSIONS)
def test_other_fusions_and_decays_that_can_not_learn_fail_and_are_named(fusion, decay):
    (fuse, category), (rate, because) = fusion, decay or (PARTS["decay"], "")
    source = program(fuse=fuse, decay=rate)
    check_fails(source, "memory_attention_gating", because="not blended by a gate")
    if decay:
        check_fails(source, "learnable_decay", because=because)
    assert grade(source).failure_category == category
    assert sum(c.passed is True for c in grade(source).criteria) == (4 if decay else 5)


def test_concatenation_of_complements_does_not_pass():
    check_never_passes(program(fuse="x = x + self.cat(torch.cat([g * a, (1 - g) * m], -1))"), "memory_attention_gating")


NO_BLEND = {
    "constant gate": ("torch.full_like(h, 0.5)", "x = x + g * a + (1 - g) * m"),
    "show blend": ("torch.sigmoid(self.g(h))", "x = x + a + m + 1e-6 * (g * a + (1 - g) * m)"),
    "no gradient": ("torch.sigmoid(self.g(h)).detach()", "x = x + g * a + (1 - g) * m"),
}
NO_SURPRISE = {
    "error computed and multiplied by zero": "torch.sigmoid(self.net(x[:, t] + 0 * (v[:, t] - r)))",
    "error made faint": "torch.sigmoid(self.net(x[:, t] + 1e-9 * (v[:, t] - r)))",
    "fixed threshold": "((v[:, t] - r).norm(dim=-1, keepdim=True) > 1).float()",
    "no learned part": "torch.sigmoid((v[:, t] - r).norm(dim=-1, keepdim=True))",
    "no gradient": "torch.sigmoid(self.net(v[:, t] - r)).detach()",
    "mean of the state": "torch.sigmoid(self.net(x[:, t]) + M.mean(dim=(1, 2)).unsqueeze(-1))",
}


@pytest.mark.parametrize(("gate", "blend"), list(zip_longest(NO_SURPRISE.values(), NO_BLEND.values())), ids=NO_SURPRISE)
def test_what_only_looks_like_surprise_or_a_blend_does_not_pass(gate, blend):
    blend_gate, fuse = blend or (PARTS["blend_gate"], PARTS["fuse"])
    source = program(gate=gate, blend_gate=blend_gate, fuse=fuse)
    check_never_passes(source, "surprise_gate")
    if blend:
        check_never_passes(source, "memory_attention_gating")
    assert sum(c.passed is True for c in grade(source).criteria) == (4 if blend else 5)


def test_a_gate_that_stands_at_one_leaves_nothing_of_the_memory():
    check_never_passes(program(blend_gate="torch.sigmoid(self.g(h) + 30)"), "memory_attention_gating")


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
