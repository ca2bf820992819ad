"""PaLM-style parallel blocks with rotary attention; attention and memory look at the same normalised input."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def rope(x: torch.Tensor) -> torch.Tensor:
    *_, T, D = x.shape
    freq = torch.exp(-math.log(10000.0) * torch.arange(0, D, 2, device=x.device) / D)
    angle = torch.arange(T, device=x.device)[:, None] * freq
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1).flatten(-2)


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_mem: int = 32, rank: int = 8):
        super().__init__()
        self.q = nn.Linear(d_model, d_mem, bias=False)
        self.k = nn.Linear(d_model, d_mem, bias=False)
        self.v = nn.Linear(d_model, d_mem, bias=False)
        # low-rank map from the error to one write strength a value channel
        self.gate_down = nn.Parameter(torch.randn(d_mem, rank) / math.sqrt(d_mem))
        self.gate_up = nn.Parameter(torch.randn(rank, d_mem) / math.sqrt(rank))
        self.gate_bias = nn.Parameter(torch.zeros(d_mem))
        self.keep = nn.Parameter(torch.linspace(1.0, 5.0, d_mem))
        self.read_norm = nn.RMSNorm(d_mem)
        self.out = nn.Linear(d_mem, d_model, bias=False)

    def forward(self, x):
        q = F.normalize(self.q(x), dim=-1)
        k = F.normalize(self.k(x), dim=-1)
        v = self.v(x)
        keep = self.keep.sigmoid()[:, None]
        M = x.new_zeros(x.size(0), v.size(-1), k.size(-1))
        reads = []
        for t in range(x.size(1)):
            kt, vt = k[:, t], v[:, t]
            error = vt - (M @ kt.unsqueeze(-1)).squeeze(-1)
            strength = torch.sigmoid(error @ self.gate_down @ self.gate_up + self.gate_bias)
            M = keep * M + torch.einsum("bv,bk->bvk", strength * vt, kt)
            reads.append((M @ q[:, t].unsqueeze(-1)).squeeze(-1))
        return self.out(self.read_norm(torch.stack(reads, 1)))


class ParallelBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)
        self.memory = NeuralMemory(d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.up = nn.Linear(d_model, 8 * d_model // 3 * 2, bias=False)
        self.down = nn.Linear(8 * d_model // 3, d_model, bias=False)

    def forward(self, x):
        B, T, D = x.shape
        h = self.norm(x)
        q, k, v = (p.view(B, T, self.n_heads, -1).transpose(1, 2) for p in self.qkv(h).chunk(3, -1))
        a = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        a = self.proj(a.transpose(1, 2).reshape(B, T, D))
        m = self.memory(h)
        g = torch.sigmoid(self.mix(h))
        up, act = self.up(h).chunk(2, -1)
        return x + g * a + (1 - g) * m + self.down(up * F.silu(act))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.Sequential(*(ParallelBlock(d_model, n_heads) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embed(tokens))))
