"""Neural long-term memory + causal LM.

Loosely after Titans (Behrouz et al. 2024): linear associative memory, momentum ("past surprise") and a forgetting
factor. The momentary surprise is squashed through a small learned net on the prediction error, so an association that is
already known leaves almost no trace.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
import torch.nn.functional as F


@dataclass(frozen=True)
class MemoryConfig:
    d_model: int = 64
    n_heads: int = 4
    d_head: int = 16
    surprise_hidden: int = 32
    decay_init: float = 0.97
    momentum_init: float = 0.4


def _logit(p: float) -> float:
    return math.log(p / (1.0 - p))


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class NeuralMemory(nn.Module):
    """Matrix memory M in R^{H x dv x dk} per sequence.

        r_t = M_{t-1} k_t
        s_t = sigmoid(net(v_t - r_t))
        S_t = eta * S_{t-1} + s_t * (v_t - r_t) k_t^T
        M_t = alpha * M_{t-1} + S_t
        y_t = M_t q_t
    """

    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        self.cfg = cfg
        inner = cfg.n_heads * cfg.d_head
        self.qkv = nn.Linear(cfg.d_model, 3 * inner, bias=False)
        self.surprise_net = nn.Sequential(
            nn.Linear(cfg.d_head, cfg.surprise_hidden), nn.SiLU(), nn.Linear(cfg.surprise_hidden, 1)
        )
        self.decay_logit = nn.Parameter(torch.full((cfg.n_heads,), _logit(cfg.decay_init)))
        self.momentum_logit = nn.Parameter(torch.full((cfg.n_heads,), _logit(cfg.momentum_init)))
        self.norm = RMSNorm(inner)
        self.out = nn.Linear(inner, cfg.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        H, D = self.cfg.n_heads, self.cfg.d_head
        q, k, v = self.qkv(x).view(B, T, 3, H, D).unbind(dim=2)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        alpha = torch.sigmoid(self.decay_logit).view(1, H, 1, 1)
        eta = torch.sigmoid(self.momentum_logit).view(1, H, 1, 1)

        M = x.new_zeros(B, H, D, D)
        S = torch.zeros_like(M)
        ys = []
        for t in range(T):
            kt, vt, qt = k[:, t], v[:, t], q[:, t]
            r = torch.einsum("bhvk,bhk->bhv", M, kt)
            err = vt - r
            s = torch.sigmoid(self.surprise_net(err))                      # [B, H, 1]
            S = eta * S + torch.einsum("bhv,bhk->bhvk", s * err, kt)
            M = alpha * M + S
            ys.append(torch.einsum("bhvk,bhk->bhv", M, qt))
        y = torch.stack(ys, dim=1).reshape(B, T, H * D)
        return self.out(self.norm(y))


class CausalSelfAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (z.view(B, T, self.n_heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class SwiGLU(nn.Module):
    def __init__(self, d: int, mult: int = 3):
        super().__init__()
        self.w12 = nn.Linear(d, 2 * mult * d, bias=False)
        self.w3 = nn.Linear(mult * d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class Layer(nn.Module):
    def __init__(self, cfg: MemoryConfig, n_heads: int):
        super().__init__()
        d = cfg.d_model
        self.norm1, self.norm2 = RMSNorm(d), RMSNorm(d)
        self.attn = CausalSelfAttention(d, n_heads)
        self.memory = NeuralMemory(cfg)
        self.fuse = nn.Linear(2 * d, d)
        self.ffn = SwiGLU(d)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        a, m = self.attn(h), self.memory(h)
        w = torch.sigmoid(self.fuse(torch.cat([a, m], dim=-1)))
        x = x + torch.lerp(a, m, w)
        return x + self.ffn(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=1024):
        super().__init__()
        cfg = MemoryConfig(d_model=d_model, n_heads=n_heads, d_head=d_model // n_heads)
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Parameter(0.02 * torch.randn(max_len, d_model))
        self.layers = nn.ModuleList([Layer(cfg, n_heads) for _ in range(n_layers)])
        self.norm = RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_emb(tokens) + self.pos_emb[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


if __name__ == "__main__":
    net = MemoryTransformer()
    ids = torch.randint(0, 256, (2, 16))
    out = net(ids)
    F.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    print(tuple(out.shape), [n for n, p in net.named_parameters() if p.grad is None])
