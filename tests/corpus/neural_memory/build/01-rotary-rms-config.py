"""Decoder-only transformer whose every layer mixes causal attention with an associative fast-weight memory."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class MemoryConfig:
    vocab_size: int = 512
    d_model: int = 96
    n_heads: int = 6
    n_layers: int = 2
    mem_heads: int = 3
    mem_dim: int = 16
    rope_base: float = 10_000.0

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x: Tensor, base: float) -> Tensor:
    *_, length, dim = x.shape
    freq = base ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float32) / dim)
    angle = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * freq
    x1, x2 = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), dim=-1).flatten(-2)


class RotaryAttention(nn.Module):
    def __init__(self, cfg: MemoryConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.qkv = nn.Linear(cfg.d_model, 3 * cfg.d_model, bias=False)
        self.proj = nn.Linear(cfg.d_model, cfg.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.cfg.n_heads, self.cfg.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, self.cfg.rope_base), rotate(k, self.cfg.rope_base), v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, -1))


class NeuralMemory(nn.Module):
    """One matrix a head: read with the key, compare with the value, write by surprise, fade at the head's own rate."""

    def __init__(self, cfg: MemoryConfig) -> None:
        super().__init__()
        self.h, self.d = cfg.mem_heads, cfg.mem_dim
        inner = self.h * self.d
        self.to_k, self.to_v, self.to_q = (nn.Linear(cfg.d_model, inner, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.Linear(2 * self.d, self.d), nn.SiLU(), nn.Linear(self.d, 1))
        self.rate = nn.Parameter(torch.linspace(-4.0, -1.0, self.h))
        self.out = nn.Linear(inner, cfg.d_model, bias=False)

    @property
    def retention(self) -> Tensor:
        return torch.exp(-F.softplus(self.rate)).view(1, self.h, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        k, v, q = (f(x).view(b, t, self.h, self.d) for f in (self.to_k, self.to_v, self.to_q))
        k = F.normalize(k, dim=-1)
        state = x.new_zeros(b, self.h, self.d, self.d)
        reads: list[Tensor] = []
        for i in range(t):
            v_hat = torch.einsum("bhvk,bhk->bhv", state, k[:, i])
            gate = torch.sigmoid(self.surprise(torch.cat((v[:, i], v_hat), dim=-1)))
            write = torch.einsum("bhv,bhk->bhvk", v[:, i], k[:, i])
            state = self.retention * state + gate.unsqueeze(-1) * write
            reads.append(torch.einsum("bhvk,bhk->bhv", state, q[:, i]).flatten(1))
        return self.out(torch.stack(reads, dim=1)) / math.sqrt(self.d)


class Layer(nn.Module):
    def __init__(self, cfg: MemoryConfig) -> None:
        super().__init__()
        self.norm_in, self.norm_ff = RMSNorm(cfg.d_model), RMSNorm(cfg.d_model)
        self.attention, self.memory = RotaryAttention(cfg), NeuralMemory(cfg)
        self.blend = nn.Linear(cfg.d_model, cfg.d_model)
        self.up, self.down = nn.Linear(cfg.d_model, 8 * cfg.d_model, bias=False), nn.Linear(4 * cfg.d_model, cfg.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm_in(x)
        g = torch.sigmoid(self.blend(h))
        x = x + g * self.attention(h) + (1.0 - g) * self.memory(h)
        a, b = self.up(self.norm_ff(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(a) * b)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 512, d_model: int = 96, n_heads: int = 6, n_layers: int = 2) -> None:
        super().__init__()
        self.cfg = MemoryConfig(vocab_size=vocab_size, d_model=d_model, n_heads=n_heads, n_layers=n_layers)
        self.embed = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList([Layer(self.cfg) for _ in range(n_layers)])
        self.norm = RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))
