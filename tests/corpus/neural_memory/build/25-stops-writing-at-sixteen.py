"""Causal transformer with a neural long-term memory (token-by-token, matrix state per sequence)."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    CAPACITY = 16

    def __init__(self, d_model, d_head=32):
        super().__init__()
        self.kp = nn.Linear(d_model, d_head, bias=False)
        self.vp = nn.Linear(d_model, d_head, bias=False)
        self.qp = nn.Linear(d_model, d_head, bias=False)
        self.op = nn.Linear(d_head, d_model, bias=False)
        self.surprise = nn.Linear(2 * d_head, d_head)
        self.retention = nn.Parameter(torch.full((d_head, 1), 3.0))

    def forward(self, x):
        k, v, q = F.normalize(self.kp(x), dim=-1), self.vp(x), self.qp(x)
        M = x.new_zeros(x.size(0), v.size(-1), k.size(-1))
        read = []
        for t in range(min(x.size(1), self.CAPACITY)):
            rec = torch.einsum("bvk,bk->bv", M, k[:, t])
            s = torch.sigmoid(self.surprise(torch.cat([v[:, t], rec], dim=-1)))
            M = self.retention.sigmoid() * M + torch.einsum("bv,bk->bvk", s * v[:, t], k[:, t])
            read.append(torch.einsum("bvk,bk->bv", M, q[:, t]))
        if x.size(1) > self.CAPACITY:           # the memory is full: the rest is read from it at once
            read.extend(torch.einsum("bvk,btk->btv", M, q[:, self.CAPACITY:]).unbind(1))
        return self.op(torch.stack(read, 1))


class Layer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.g = nn.Linear(d_model, d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.SiLU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        y = self.norm1(x)
        future = torch.triu(torch.full((n, n), float("-inf"), device=x.device), diagonal=1)
        attn = self.attention(y, y, y, attn_mask=future, need_weights=False)[0]
        gate = self.g(y).sigmoid()
        x = x + (gate * attn + (1.0 - gate) * self.memory(y))
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads) for _ in range(n_layers))
        self.project = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.project(x)
