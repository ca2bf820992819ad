"""A family of fast-weight memories: the base class scans, subclasses say how to write."""
import abc

import torch
import torch.nn as nn


class FastWeights(nn.Module, abc.ABC):
    def __init__(self, d_model):
        super().__init__()
        self.d_model = d_model
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)

    @abc.abstractmethod
    def update(self, W, k, v):
        """The matrix after one token."""

    def forward(self, x):
        W = torch.zeros(len(x), self.d_model, self.d_model, device=x.device, dtype=x.dtype)
        read = []
        for t in range(x.shape[1]):
            token = x[:, t]
            W = self.update(W, self.key(token) * self.d_model ** -0.5, self.value(token))
            read.append(torch.einsum("bij,bj->bi", W, self.query(token)))
        return torch.stack(read, dim=1)


class NeuralMemory(FastWeights):
    def __init__(self, d_model=64):
        super().__init__(d_model)
        self.gain = nn.Parameter(torch.ones(1))
        self.threshold = nn.Parameter(torch.ones(1))
        self.forget = nn.Parameter(torch.tensor([0.9]))

    def surprise(self, W, k, v):
        error = v - torch.einsum("bij,bj->bi", W, k)
        size = error.square().mean(dim=-1, keepdim=True).add(1e-6).sqrt()
        return torch.sigmoid(self.gain * (size - self.threshold))

    def update(self, W, k, v):
        s = self.surprise(W, k, v)
        outer = torch.stack([torch.outer(a, b) for a, b in zip(s * v, k)])
        return self.forget.clamp(0, 1) * W + outer


class DecoderLayer(nn.Module):
    def __init__(self, d_model, n_heads, memory):
        super().__init__()
        self.memory = memory
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(3))
        self.gate = nn.Linear(d_model, d_model)
        self.fc1, self.fc2 = nn.Linear(d_model, 3 * d_model), nn.Linear(3 * d_model, d_model)

    def forward(self, x):
        T = x.shape[1]
        h = self.norms[0](x)
        a, _ = self.self_attn(h, h, h, attn_mask=torch.ones(T, T, device=x.device).triu(1) == 1)
        m = self.norms[2](self.memory(h))
        g = torch.sigmoid(self.gate(a + m))
        x = x + g * m + (1 - g) * a
        return x + self.fc2(torch.relu(self.fc1(self.norms[1](x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=8, n_layers=2, max_len=512):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(DecoderLayer(d_model, n_heads, NeuralMemory(d_model)) for _ in range(n_layers))
        self.final = nn.LayerNorm(d_model)
        self.lm = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[-1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.lm(self.final(x))
