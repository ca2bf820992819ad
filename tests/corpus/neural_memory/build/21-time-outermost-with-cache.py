"""Decoding order also in training: the outermost loop is over time, and each layer has a cache and a memory matrix."""

from dataclasses import dataclass, field

import torch
import torch.nn as nn


@dataclass
class LayerState:
    matrix: torch.Tensor
    keys: list = field(default_factory=list)
    values: list = field(default_factory=list)


class NeuralMemory(nn.Module):
    """One step: takes a token and the matrix, gives what is read and the new matrix."""

    def __init__(self, dim: int, inner: int = 32):
        super().__init__()
        self.inner = inner
        self.project = nn.Linear(dim, 3 * inner)
        self.weight_error = nn.Parameter(torch.ones(inner))
        self.weight_match = nn.Parameter(torch.zeros(inner))
        self.threshold = nn.Parameter(torch.zeros(1))
        self.fade = nn.Parameter(torch.full((inner, inner), 2.0))
        self.back = nn.Linear(inner, dim)

    def blank(self, batch: int, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(batch, self.inner, self.inner)

    def forward(self, x, matrix):
        key, value, query = self.project(x).tensor_split(3, dim=-1)
        key = torch.nn.functional.normalize(key, dim=-1)
        found = torch.bmm(matrix, key.unsqueeze(-1)).squeeze(-1)
        error = (value - found).square()
        gate = torch.sigmoid((self.weight_error * error - self.weight_match * found * value).mean(-1) - self.threshold)
        change = torch.bmm((gate.unsqueeze(-1) * (value - found)).unsqueeze(-1), key.unsqueeze(1))
        matrix = matrix * torch.sigmoid(self.fade) + change
        return self.back(torch.bmm(matrix, query.unsqueeze(-1)).squeeze(-1)), matrix


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.memory = NeuralMemory(dim)
        self.choose = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def start(self, batch, like):
        return LayerState(self.memory.blank(batch, like))

    def attend(self, h, state):
        batch, dim = h.shape
        shape = (batch, self.heads, dim // self.heads)
        state.keys.append(self.k(h).view(shape))
        state.values.append(self.v(h).view(shape))
        keys, values = torch.stack(state.keys, 2), torch.stack(state.values, 2)  # [B, H, t, d]
        weights = torch.einsum("bhd,bhtd->bht", self.q(h).view(shape), keys) / keys.size(-1) ** 0.5
        return self.o(torch.einsum("bht,bhtd->bhd", weights.softmax(-1), values).reshape(batch, dim))

    def forward(self, x, state):
        h = self.before(x)
        attended = self.attend(h, state)
        remembered, state.matrix = self.memory(h, state.matrix)
        g = torch.sigmoid(self.choose(h))
        x = x + (1 - g) * attended + g * remembered
        return x + self.mlp(self.between(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=128, d_model=32, n_heads=4, n_layers=2, max_len=256):
        super().__init__()
        self.token, self.place = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        x = self.token(tokens) + self.place.weight[: tokens.size(1)]
        states = [layer.start(tokens.size(0), x) for layer in self.layers]
        logits = []
        for now in x.unbind(1):
            for layer, state in zip(self.layers, states):
                now = layer(now, state)
            logits.append(self.head(now))
        return torch.stack(logits, 1)
