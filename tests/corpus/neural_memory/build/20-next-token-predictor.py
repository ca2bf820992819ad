"""Surprise as in predictive coding: a small predictor guesses the next value from the token before it."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, hidden: int = 64):
        super().__init__()
        self.keys = nn.Linear(d_model, d_model, bias=False)
        self.values = nn.Linear(d_model, d_model, bias=False)
        self.queries = nn.Linear(d_model, d_model, bias=False)
        self.predictor = nn.Sequential(nn.Linear(d_model, hidden), nn.Tanh(), nn.Linear(hidden, d_model))
        self.to_gate = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bsz, length, dim = x.shape
        k = F.normalize(self.keys(x), dim=-1)
        q = F.normalize(self.queries(x), dim=-1)
        v = self.values(x)
        weights = x.new_zeros(bsz, dim, dim)
        previous = x.new_zeros(bsz, dim)
        outputs = []
        for t in range(length):
            prediction = self.predictor(previous)
            error = v[:, t] - prediction
            surprise = torch.sigmoid(self.to_gate(error**2))
            weights = weights + surprise[..., None] * torch.einsum("bv,bk->bvk", v[:, t], k[:, t])
            # fade what is remembered
            recalled = torch.einsum("bvk,bk->bv", weights, q[:, t])
            outputs.append(torch.sigmoid(self.decay) * recalled)
            previous = x[:, t]
        return torch.stack(outputs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.Sigmoid())
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.norm1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = self.gate(torch.cat([attn, mem], dim=-1))
        x = x + g * attn + (1 - g) * mem
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.ones(T, T, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.token(tokens) + self.position(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.unembed(self.norm(x))
