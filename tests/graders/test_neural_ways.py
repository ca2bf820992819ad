"""Right programs of neural_memory: each part in each way of writing it, several in one program."""

from itertools import cycle

import pytest

from tests.graders.checks import grade, program

GATES = {  # that compare input and retrieved value
    "error of the value": "torch.sigmoid(self.net(v[:, t] - r))",
    "error squared": "torch.sigmoid(self.net((r - v[:, t]) ** 2))",
    "two layers": "torch.sigmoid(self.net(torch.tanh(v[:, t] - r)))",
    "mean of a wide gate": "torch.sigmoid(self.k(v[:, t] - r)).mean(-1, keepdim=True)",
    "functional linear": "F.linear(v[:, t] - r, self.net.weight).sigmoid()",
    "norm through a learned scale": "torch.sigmoid(self.net.bias * (v[:, t] - r).norm(dim=-1, keepdim=True))",
    "read by a product and a sum": "torch.sigmoid(self.net(v[:, t] - (M * k[:, t].unsqueeze(1)).sum(-1)))",
    "read by a matrix product": "torch.sigmoid(self.net(v[:, t] - (M @ k[:, t].unsqueeze(-1)).squeeze(-1)))",
    # a sigmoid is what computes one
    "exponential": "1 / (1 + torch.exp(-self.net(v[:, t] - r)))",
    "tanh": "0.5 * (torch.tanh(self.net(v[:, t] - r)) + 1)",
    "softmax of two": "torch.softmax(torch.cat([self.net(v[:, t] - r), torch.zeros(B, 1)], -1), -1)[..., :1]",
}
DECAYS = {  # a parameter that scales the carried state
    "exp of softplus": "torch.exp(-F.softplus(self.decay))",
    "one minus": "1 - torch.sigmoid(-self.decay)",
    "clamped": "self.decay.clamp(0, 0.99) * 0.5 + self.decay * 0.1",
    "forget gate": "torch.sigmoid(self.forget(x[:, t])).unsqueeze(-1)",
}
WRITES = {  # a column times a row
    "einsum": "torch.einsum('bi,bj->bij', v[:, t], k[:, t])",
    "broadcast": "v[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)",
    "none index": "v[:, t, :, None] * k[:, t, None, :]",
    "matmul": "v[:, t].unsqueeze(-1) @ k[:, t].unsqueeze(1)",
    "bmm": "torch.bmm(v[:, t].unsqueeze(2), k[:, t].unsqueeze(1))",
    "key first": "torch.einsum('bi,bj->bji', v[:, t], k[:, t]).transpose(1, 2)",
}
UPDATES = (
    "M = torch.lerp(w, M, f) + s.unsqueeze(-1) * w",
    "M = f * M + s.unsqueeze(-1) * w",
    "M = (f * M).add(s.unsqueeze(-1) * w)",
    "M = M - (1 - f) * M + s.unsqueeze(-1) * w",
    "M = M.mul(f).add(s.unsqueeze(-1) * w)",
    "M = f * (M + s.unsqueeze(-1) * w)",
)
BLENDS = {  # one gate and its complement
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
ROWS = list(zip(BLENDS.values(), cycle(GATES.values()), cycle(DECAYS.values()), cycle(WRITES.values()), cycle(UPDATES)))


@pytest.mark.parametrize(("fuse", "gate", "decay", "write", "update"), ROWS, ids=BLENDS)
def test_each_part_passes_in_every_way_of_writing_it(fuse, gate, decay, write, update):
    found = grade(program(fuse=fuse, gate=gate, decay=decay, write=write, update=update))
    assert {c.key: c.rationale for c in found.criteria if c.passed is not True} == {}


def test_every_way_is_in_one_of_the_programs():
    assert [len(set(ways)) for ways in zip(*ROWS, strict=True)] == [len(BLENDS), len(GATES), len(DECAYS), len(WRITES), len(UPDATES)]
