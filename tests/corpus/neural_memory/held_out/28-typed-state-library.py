"""neural_memory.py -- causal LM with an associative long-term memory in every block."""
from __future__ import annotations

import math
from typing import NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NeuralMemory", "MemoryTransformer"]


class StepStats(NamedTuple):
    surprise: Tensor
    read: Tensor


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class NeuralMemory(nn.Module):
    """Matrix-valued memory ``M`` of shape ``[batch, heads, d_value, d_key]``.

    Per token::

        r_t = M_{t-1} k_t
        s_t = sigmoid(f([v_t, r_t]))
        M_t = lambda * M_{t-1} + s_t * v_t k_t^T
        y_t = M_t q_t
    """

    def __init__(self, d_model: int = 64, n_heads: int = 2, hidden: int = 32) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError("d_model must be divisible by n_heads")
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.to_q = nn.Linear(d_model, d_model, bias=False)
        self.to_k = nn.Linear(d_model, d_model, bias=False)
        self.to_v = nn.Linear(d_model, d_model, bias=False)
        self.surprise_net = nn.Sequential(
            nn.Linear(2 * self.d_head, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )
        # sigmoid(3) ~ 0.953
        self.retention_logit = nn.Parameter(torch.full((n_heads,), 3.0))
        self.norm = RMSNorm(d_model)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, self.n_heads, self.d_head, self.d_head)

    def step(self, state: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, StepStats]:
        recalled = torch.matmul(state, k.unsqueeze(-1)).squeeze(-1)
        surprise = torch.sigmoid(self.surprise_net(torch.cat((v, recalled), dim=-1)))
        keep = torch.sigmoid(self.retention_logit).view(1, -1, 1, 1)
        association = v.unsqueeze(-1) * k.unsqueeze(-2)
        state = keep * state + surprise.unsqueeze(-1) * association
        read = torch.matmul(state, q.unsqueeze(-1)).squeeze(-1)
        return state, StepStats(surprise, read)

    def forward(self, x: Tensor, state: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        b, t, d = x.shape
        split = lambda z: z.view(b, t, self.n_heads, self.d_head)
        q = split(self.to_q(x)) / math.sqrt(self.d_head)
        k = F.normalize(split(self.to_k(x)), dim=-1)
        v = split(self.to_v(x))
        if state is None:
            state = self.initial_state(b, x)
        reads = []
        for i in range(t):
            state, stats = self.step(state, q[:, i], k[:, i], v[:, i])
            reads.append(stats.read.reshape(b, d))
        return self.out(self.norm(torch.stack(reads, dim=1))), state


class CausalSelfAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.h = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (z.view(b, t, self.h, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, d))


class MemoryBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int, mem_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(d_model), RMSNorm(d_model)
        self.attn = CausalSelfAttention(d_model, n_heads)
        self.memory = NeuralMemory(d_model, mem_heads)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.SiLU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        attn = self.attn(h)
        mem, _ = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat((attn, mem), dim=-1)))
        x = x + g * attn + (1.0 - g) * mem
        return x + self.ffn(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2,
                 max_len: int = 512, mem_heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([MemoryBlock(d_model, n_heads, mem_heads) for _ in range(n_layers)])
        self.norm = RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.pos.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))
