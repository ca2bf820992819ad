"""Memory with local credit: values flow through the whole stream, gradients reach back one step only."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Cell(nn.Module):
    """(input, state) -> (output, new state); knows nothing of sequences."""

    def __init__(self, size, rank):
        super().__init__()
        self.k, self.q, self.v = nn.Linear(size, rank, bias=False), nn.Linear(size, rank, bias=False), nn.Linear(size, size, bias=False)
        self.s = nn.Sequential(nn.Linear(2 * size, size // 2), nn.SELU(), nn.Linear(size // 2, 1))
        self.f = nn.Parameter(torch.linspace(1.0, 5.0, rank))
        self.start = nn.Parameter(torch.zeros(size, rank))

    def initial(self, batch):
        return self.start.expand(batch, -1, -1)

    def forward(self, x, state):
        k = F.normalize(self.k(x), dim=-1)
        v = self.v(x)
        recalled = (state @ k[..., None]).flatten(1)
        s = self.s(torch.cat([v, recalled - v], -1)).sigmoid()
        state = state * self.f.sigmoid() + torch.einsum("n,ni,nj->nij", s.squeeze(-1), v, k)
        return (state @ self.q(x)[..., None]).flatten(1), state


def scan(cell, xs, state):
    for x in xs:
        y, state = cell(x, state)
        yield y
        state = state.detach()


class NeuralMemory(nn.Module):
    def __init__(self, d_model, rank=16):
        super().__init__()
        self.cell = Cell(d_model, rank)

    def forward(self, x):
        ys = list(scan(self.cell, x.unbind(dim=1), self.cell.initial(len(x))))
        return torch.stack(ys, dim=1)


class Sub(nn.Module):
    def __init__(self, d_model, heads):
        super().__init__()
        self.ln = nn.LayerNorm(d_model)
        self.wi, self.wo = nn.Linear(d_model, 3 * d_model, bias=False), nn.Linear(d_model, d_model, bias=False)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Conv1d(d_model, d_model, 1, groups=heads)
        self.heads = heads

    def forward(self, x):
        h = self.ln(x)
        q, k, v = (z.unflatten(2, (self.heads, -1)).movedim(2, 1) for z in self.wi(h).split(x.size(-1), dim=-1))
        a = self.wo(F.scaled_dot_product_attention(q, k, v, is_causal=True).movedim(1, 2).flatten(2))
        g = torch.sigmoid(self.gate(a.mT)).mT
        return x + g * a + (1 - g) * self.mem(h)


class Mlp(nn.Sequential):
    def __init__(self, d):
        super().__init__(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        return x + super().forward(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.e = nn.Embedding(vocab_size, d_model)
        self.p = nn.Embedding(max_len, d_model)
        self.body = nn.Sequential(*(m for _ in range(n_layers) for m in (Sub(d_model, n_heads), Mlp(d_model))))
        self.u = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        return self.u(self.body(self.e(tokens) + self.p.weight[: tokens.size(1)]))
