"""Associative memory as a pure step function plus a generic scan (JAX habits die hard)."""
from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scan(step: Callable, carry, xs: tuple[Tensor, ...]):
    """lax.scan over dim 1 of every tensor in xs."""
    outs = []
    for t in range(xs[0].shape[1]):
        carry, y = step(carry, tuple(z[:, t] for z in xs))
        outs.append(y)
    return carry, torch.stack(outs, dim=1)


class RMSNorm(nn.Module):
    def __init__(self, d: int, eps: float = 1e-6):
        super().__init__()
        self.g = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.g * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class NeuralMemory(nn.Module):
    """M <- forget * M + novelty * v k^T, with forget = f(x_t) and novelty = f(x_t, recall_t)."""

    def __init__(self, d_model: int = 64, d_key: int = 24, d_val: int = 48):
        super().__init__()
        self.d_key, self.d_val = d_key, d_val
        self.wk = nn.Linear(d_model, d_key, bias=False)
        self.wv = nn.Linear(d_model, d_val, bias=False)
        self.forget = nn.Linear(d_model, 1)
        nn.init.zeros_(self.forget.weight)
        nn.init.constant_(self.forget.bias, 3.0)
        self.novelty_actual = nn.Linear(d_val, d_val, bias=False)
        self.novelty_recall = nn.Linear(d_val, d_val, bias=True)
        self.novelty_out = nn.Linear(d_val, 1)
        self.wo = nn.Linear(d_val, d_model, bias=False)

    def novelty(self, actual: Tensor, recall: Tensor) -> Tensor:
        hidden = torch.tanh(self.novelty_actual(actual) - self.novelty_recall(recall))
        return torch.sigmoid(self.novelty_out(hidden.square()))

    def step(self, M: Tensor, inp: tuple[Tensor, Tensor, Tensor]):
        k, v, f = inp
        recall = (M * k[:, None, :]).sum(-1)
        n = self.novelty(v, recall)
        M = f[:, :, None] * M + n[:, :, None] * (v[:, :, None] * k[:, None, :])
        return M, recall

    def forward(self, x: Tensor) -> Tensor:
        k = F.softmax(self.wk(x), dim=-1)
        v = self.wv(x)
        f = torch.sigmoid(self.forget(x))
        M0 = x.new_zeros(x.shape[0], self.d_val, self.d_key)
        _, y = scan(self.step, M0, (k, v, f))
        return self.wo(y)


def rope(x: Tensor) -> Tensor:
    T, d = x.shape[-2:]
    inv = 10000.0 ** (-torch.arange(0, d, 2, device=x.device, dtype=x.dtype) / d)
    ang = torch.arange(T, device=x.device, dtype=x.dtype)[:, None] * inv
    c, s = ang.cos(), ang.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.wqkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.wo = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.wqkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(B, T, D))


class SwiGLU(nn.Module):
    def __init__(self, d: int, hidden: int):
        super().__init__()
        self.w12 = nn.Linear(d, 2 * hidden, bias=False)
        self.w3 = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(a) * b)


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n1, self.n2 = RMSNorm(d_model), RMSNorm(d_model)
        self.attn = Attention(d_model, n_heads)
        self.mem = NeuralMemory(d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.ffn = SwiGLU(d_model, 3 * d_model)

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        x = x + torch.lerp(self.attn(h), self.mem(h), torch.sigmoid(self.mix(h)))
        return x + self.ffn(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))
