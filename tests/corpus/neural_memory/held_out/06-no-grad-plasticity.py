"""
Memory transformer with online ("test-time") plasticity.

Slow weights are trained by backprop. Fast weights (the memory matrix) change while the model
reads, as synapses do, and are not part of the autograd graph: the graph would otherwise grow
with the sequence.
"""
from typing import List

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_key: int = 32, d_val: int = 64):
        super().__init__()
        self.d_key, self.d_val = d_key, d_val
        self.q = nn.Linear(d_model, d_key)
        self.k = nn.Linear(d_model, d_key)
        self.v = nn.Linear(d_model, d_val)
        self.surprise_mlp = nn.Sequential(nn.Linear(d_val, d_val), nn.SiLU(), nn.Linear(d_val, 1))
        self.decay = nn.Parameter(torch.tensor(3.0))
        self.o = nn.Linear(d_val, d_model)

    @torch.no_grad()
    def plasticity(self, state: Tensor, k: Tensor, v: Tensor) -> Tensor:
        predicted = torch.bmm(state, k.unsqueeze(-1)).squeeze(-1)
        error = v - predicted
        surprise = torch.sigmoid(self.surprise_mlp(error))
        return torch.sigmoid(self.decay) * state + surprise.unsqueeze(-1) * (v.unsqueeze(-1) * k.unsqueeze(-2))

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = F.normalize(self.q(x), dim=-1)
        k = F.normalize(self.k(x), dim=-1)
        v = self.v(x)
        state = torch.zeros(B, self.d_val, self.d_key, device=x.device, dtype=x.dtype)
        reads: List[Tensor] = []
        for t in range(T):
            state = self.plasticity(state, k[:, t], v[:, t])
            reads.append(torch.bmm(state, q[:, t].unsqueeze(-1)).squeeze(-1))
        return self.o(torch.stack(reads, dim=1))


class GatedFusion(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.proj = nn.Linear(2 * d_model, d_model)

    def forward(self, attn: Tensor, mem: Tensor) -> Tensor:
        g = torch.sigmoid(self.proj(torch.cat([attn, mem], dim=-1)))
        return g * attn + (1 - g) * mem


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion = GatedFusion(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + self.fusion(a, self.memory(h))
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2,
                 max_len: int = 512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
