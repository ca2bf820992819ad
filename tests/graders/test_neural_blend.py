"""The blend of memory and attention of neural_memory: what passes in any style, and near misses that must not."""

import pytest

from tests.graders.checks import check_fails, check_never_passes, check_passes, grade, program

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
