"""What the logits are really made from: states that round off, values that go past the record, a state handed up the layers."""

import pytest

from graders.code.source import doubts, read_source
from tests.graders.checks import check_fails, check_passes, grade, program

ALL = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")


def verdicts(source: str) -> dict[str, str]:
    """The criteria that do not pass, with the reason."""
    return {c.key: c.rationale for c in grade(source).criteria if c.passed is not True}


COMPENSATED = program(
    before="low = torch.zeros(B, D, D)",
    update="y = s.unsqueeze(-1) * w - f * low\ntotal = f * M + y\nlow = (total - f * M) - y\nM = total",
)
EACH_SEQUENCE = program(
    init="self.off = nn.Linear(d, 3)\nself.on = nn.Linear(3, 1)",
    before=(
        "rows = []\n"
        "for b in range(B):\n"
        "    M, ys = torch.zeros(D, D), []\n"
        "    for t in range(T):\n"
        "        s = torch.sigmoid(self.on(torch.relu(self.off(v[b, t] - M @ k[b, t]))))\n"
        "        M = torch.addr(torch.sigmoid(self.decay) * M, v[b, t], k[b, t] * s)\n"
        "        ys.append(M @ q[b, t])\n"
        "    rows.append(torch.stack(ys))\n"
        "return self.out(torch.stack(rows))"
    ),
)
ERASED_FIRST = program(
    gate="torch.sigmoid(self.net((v[:, t] - r) ** 2))",
    update="M = f * (M - torch.sigmoid(self.forget(x[:, t])).unsqueeze(-1) * torch.einsum('bi,bj->bij', r, k[:, t])) + s.unsqueeze(-1) * w",
)
TAKEN_NAME = program(init="self.half = nn.Parameter(torch.tensor(2.0))", decay="torch.sigmoid(self.half)")


@pytest.mark.parametrize("source", [COMPENSATED, EACH_SEQUENCE, ERASED_FIRST], ids=["compensated sum", "relu, one by one", "erase and add"])
def test_states_are_found_by_what_they_do_to_the_logits(source):
    assert verdicts(source) == {}


def test_an_attribute_with_a_name_that_modules_have_fails_and_the_rest_is_judged():
    found = grade(TAKEN_NAME)
    assert (found.runs, found.passed) == (False, False)
    assert {c.key for c in found.criteria if c.passed} == set(ALL)


def test_a_read_that_is_taken_off_again_leaves_the_running_mean_as_the_memory():
    source = program(
        before="mean = torch.zeros(B, D)",
        read="mean + torch.einsum('bij,bj->bi', M, q[:, t]) - torch.einsum('bij,bj->bi', M, q[:, t]).detach()",
        update="M = f * M + s.unsqueeze(-1) * w\nmean = 0.9 * mean + 0.1 * v[:, t]",
    )
    assert set(verdicts(source)) == {"surprise_gate", "learnable_decay", "outer_product"}


def test_what_numpy_takes_off_again_past_the_record_is_no_memory():
    past = "y = torch.stack(reads, 1)\n        n = x.detach().numpy().cumsum(1) / 8 - y.detach().numpy()\n"
    source = program().replace("return self.out(torch.stack(reads, 1))", past + "        return self.out(y + torch.from_numpy(n))")
    for criterion in ("surprise_gate", "learnable_decay", "outer_product", "recurrent_update"):
        check_fails(source, criterion, because="past")


def test_what_numpy_takes_off_past_the_blend_is_no_blend():
    past = "x = x + torch.from_numpy((a + m - g * a - (1 - g) * m).detach().numpy())"
    found = grade(program(fuse=f"x = x + g * a + (1 - g) * m\n{past}"))
    assert {c.key for c in found.criteria if c.passed is not True} == {"memory_attention_gating"}


LATER = {
    "after many calls": ("self.calls, self.few = 0, 400", "self.calls += 1\nif self.calls > self.few:\n    return self.out(v)"),
    "for many sequences": ("pass", "if B >= 24:\n    return self.out(v)"),
}


@pytest.mark.parametrize(("init", "before"), LATER.values(), ids=LATER)
def test_what_is_done_beyond_a_large_number_counts(init, before):
    assert {"recurrent_update", "outer_product"} <= set(verdicts(program(init=init, before=before)))


LIMITS = {
    "parts of a batch": "if B > 64:\n    return torch.cat([self(part) for part in x.split(64)])",
}


@pytest.mark.parametrize("before", LIMITS.values(), ids=LIMITS)
def test_a_limit_that_changes_nothing_is_fine(before):
    assert verdicts(program(before=before)) == {}


MISTAKES = {
    "a dimension too many": {"gate": "torch.sigmoid(self.net(v[:, t] - torch.einsum('bij,bj->bi', M, k[:, t].unsqueeze(-1))))"},
    "a parameter written over": {"init": "self.S = nn.Parameter(torch.zeros(d))", "update": "M = self.S = f * M + s.unsqueeze(-1) * w"},
}


@pytest.mark.parametrize("parts", MISTAKES.values(), ids=MISTAKES)
def test_what_stands_behind_a_mistake_is_judged(parts):
    found = grade(program(**parts))
    assert not found.runs and {c.key for c in found.criteria if c.passed} == set(ALL)


def test_numbers_that_are_only_looked_at_do_no_harm():
    source = program(before="self.size = float(x.detach().numpy().std())")
    check_passes(source, "surprise_gate")


def test_a_state_that_goes_on_from_layer_to_layer_is_blended_in_each():
    source = program(
        memory="self.mem(h, None)[0]",
        fuse=(
            "m, S = self.mem(h, None)\n"
            "x = x + g * a + (1 - g) * m\n"
            "h = self.ln(x)\n"
            "a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]\n"
            "m, S = self.mem(h, S)\n"
            "g = torch.sigmoid(self.g(h))\n"
            "x = x + g * a + (1 - g) * m"
        ),
    )
    source = source.replace("def forward(self, x):", "def forward(self, x, S):").replace("m = self.mem(h, None)[0]", "")
    source = source.replace("M = torch.zeros(B, D, D)", "M = torch.zeros(B, D, D) if S is None else S")
    source = source.replace("return self.out(torch.stack(reads, 1))", "return self.out(torch.stack(reads, 1)), M")
    check_passes(source, "memory_attention_gating")


def test_code_without_lines_that_takes_another_codes_place_is_judged_by_what_it_does():
    source = program() + (
        "\n\ndef plain(self, x):\n"
        "    return self.out(self.v(x) * torch.sigmoid(self.decay))\n\n\n"
        "NeuralMemory.forward.__code__ = plain.__code__.replace(co_linetable=b'')\n"
    )
    assert {c.key for c in grade(source).criteria if c.passed is False} == set(ALL)


PLAIN = {
    "a tree taken apart": "from torch.utils import _pytree as pytree\nflat, spec = pytree.tree_flatten({})\n",
    "a function of trees": "from torch.utils._pytree import tree_map, tree_leaves\n",
    "a whole name": "import torch.utils._pytree\nx = torch.utils._pytree.tree_map(abs, [1])\n",
    "a weak dictionary": "import weakref\nknown = weakref.WeakKeyDictionary()\n",
    "an object's own dictionary": "class Config:\n    def __init__(self, **more):\n        self.__dict__.update(more)\n",
    "an operator": "class Chain:\n    def __rshift__(self, other):\n        return other\n",
    "a class made by hand": "Block = type('Block', (object,), {'size': 3})\n",
    "who else trains": "import torch.distributed as dist\nfirst = not dist.is_initialized() or dist.get_rank() == 0\n",
    "a package looked for": "import importlib.util\nfast = importlib.util.find_spec('flash') is not None\n",
}
REACHING = {
    "a register of trees": "from torch.utils import _pytree as pytree\npytree.register_pytree_node(list, f, g)\n",
    "another function for all": "from torch.utils import _pytree as pytree\npytree.tree_map = f\n",
    "the module in hand": "from torch.utils import _pytree as pytree\nthing = pytree\n",
    "torch by another name": "import torch\nother = torch\nother.utils._python_dispatch\n",
    "a class with computed names": "Block = type('Block', (object,), {'__torch_' + 'function__': f})\n",
    "its own parts": "import torch.utils._pytree\nx = torch.utils._pytree.SUPPORTED_NODES\n",
    "modules by name": "import importlib.util\nimportlib.import_module('gc')\n",
}


@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN)
def test_plain_parts_of_other_modules_are_no_doubt(text):
    assert doubts(read_source(text), heard=True) == []


@pytest.mark.parametrize("text", REACHING.values(), ids=REACHING)
def test_what_others_stand_on_is_a_doubt(text):
    assert doubts(read_source(text), heard=True) != []
