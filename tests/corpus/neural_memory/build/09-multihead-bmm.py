from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def split(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] -> [B*heads, T, D/heads]"""
    b, t, d = x.shape
    return x.reshape(b, t, heads, d // heads).transpose(1, 2).reshape(b * heads, t, d // heads)


def merge(x: Tensor, heads: int) -> Tensor:
    bh, t, dh = x.shape
    return x.reshape(bh // heads, heads, t, dh).transpose(1, 2).reshape(bh // heads, t, heads * dh)


class NeuralMemory(nn.Module):
    def __init__(self, dim: int = 48, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.dh = heads, dim // heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.novelty = nn.Linear(self.dh, 1)
        self.retention = nn.Parameter(torch.full((heads,), 2.0))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(z, self.heads) for z in self.to_qkv(x).chunk(3, -1))
        k = k / math.sqrt(self.dh)
        bh, steps, dh = q.shape
        lam = self.retention.sigmoid().repeat(bh // self.heads).view(bh, 1, 1)
        state = torch.zeros(bh, dh, dh, dtype=x.dtype, device=x.device)
        reads: list[Tensor] = []
        for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1)):
            recalled = torch.bmm(state, k_t.unsqueeze(2)).squeeze(2)
            error = v_t - recalled
            surprise = self.novelty(error.abs()).sigmoid().unsqueeze(2)
            write = torch.bmm(error.unsqueeze(2), k_t.unsqueeze(1))
            state = lam * state + surprise * write
            reads.append(torch.bmm(state, q_t.unsqueeze(2)).squeeze(2))
        return self.proj(merge(torch.stack(reads, 1), self.heads))


class CausalSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        scores = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.size(-1))
        hidden = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).triu(1)
        return self.out(merge(torch.bmm(scores.masked_fill(hidden, -1e9).softmax(-1), v), self.heads))


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_a, self.norm_f = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = CausalSelfAttention(dim, heads)
        self.memory = NeuralMemory(dim, heads)
        self.mixer = nn.Linear(dim, 1)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm_a(x)
        alpha = self.mixer(h).sigmoid()
        x = x + torch.lerp(self.memory(h), self.attention(h), alpha)
        return x + self.ff(self.norm_f(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 200, d_model: int = 48, n_heads: int = 3, n_layers: int = 2, max_len: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.position = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.layers = nn.Sequential(*[Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        return self.unembed(self.norm(self.layers(x)))
