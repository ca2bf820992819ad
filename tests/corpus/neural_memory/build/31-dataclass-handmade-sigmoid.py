"""Every nonlinearity written out; the memory's state travels as a frozen dataclass."""
from dataclasses import dataclass, replace

import torch
import torch.nn as nn


def squash(z):
    return 1.0 / (1.0 + torch.exp(-z))


@dataclass(frozen=True)
class Trace:
    matrix: torch.Tensor
    age: int = 0


class NeuralMemory(nn.Module):
    def __init__(self, features=36, slots=20):
        super().__init__()
        self.slots = slots
        scale = features ** -0.5
        self.Wk = nn.Parameter(torch.randn(features, slots) * scale)
        self.Wv = nn.Parameter(torch.randn(features, features) * scale)
        self.Wq = nn.Parameter(torch.randn(features, slots) * scale)
        self.u = nn.Parameter(torch.randn(features) * scale)
        self.b = nn.Parameter(torch.zeros(()))
        self.rate = nn.Parameter(torch.linspace(1.0, 4.0, features))

    def recall(self, trace, address):
        return (trace.matrix @ address[..., None])[..., 0]

    def learn(self, trace, x):
        k = x @ self.Wk
        k = k / (k.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt()
        v = x @ self.Wv
        miss = v - self.recall(trace, k)
        strength = squash((miss ** 2) @ self.u + self.b)
        faded = squash(self.rate)[None, :, None] * trace.matrix
        return replace(trace, matrix=faded + (strength[:, None] * miss)[:, :, None] * k[:, None, :], age=trace.age + 1)

    def forward(self, x):
        trace = Trace(torch.zeros(x.shape[0], x.shape[2], self.slots, device=x.device))
        rows = []
        while trace.age < x.shape[1]:
            now = x[:, trace.age, :]
            trace = self.learn(trace, now)
            rows.append(self.recall(trace, now @ self.Wq))
        return torch.stack(rows, dim=1)


class Mix(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3 * features, features))

    def forward(self, x, a, m):
        g = squash(torch.cat([x, a, m], -1) @ self.w)
        return m + g * (a - m)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=150, d_model=36, n_heads=2, n_layers=2, max_len=200):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.where = nn.Embedding(max_len, d_model)
        self.stages = nn.ModuleList()
        for _ in range(n_layers):
            self.stages.append(nn.ModuleDict({
                "pre": nn.LayerNorm(d_model),
                "look": nn.MultiheadAttention(d_model, n_heads, batch_first=True),
                "remember": NeuralMemory(d_model),
                "mix": Mix(d_model),
                "think": nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 72), nn.Tanh(), nn.Linear(72, d_model)),
            }))
        self.read = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        n = tokens.shape[1]
        x = self.token(tokens) + self.where(torch.arange(n, device=tokens.device))
        blind = torch.ones(n, n, device=x.device).triu(1).bool()
        for s in self.stages:
            h = s["pre"](x)
            a = s["look"](h, h, h, attn_mask=blind)[0]
            x = x + s["mix"](h, a, s["remember"](h))
            x = x + s["think"](x)
        return self.read(x)
