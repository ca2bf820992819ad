"""Chunked test-time memorisation: the memory is updated once per chunk, as efficient linear-attention kernels do."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, chunk_size=3):
        super().__init__()
        self.chunk_size = chunk_size
        self.to_q = nn.Linear(d_model, d_model, bias=False)
        self.to_k = nn.Linear(d_model, d_model, bias=False)
        self.to_v = nn.Linear(d_model, d_model, bias=False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor(0.5))
        self.decay = nn.Parameter(torch.tensor(1.7))
        self.norm = nn.LayerNorm(d_model)

    @torch.no_grad()
    def surprise(self, memory, keys, values):
        """How far off the memory is, in (0, 1). A statistic: nothing is to be backpropagated through it."""
        predicted = torch.einsum("bvk,bck->bcv", memory, keys)
        distance = (values - predicted).norm(dim=-1, keepdim=True) / values.size(-1) ** 0.5
        return torch.sigmoid(self.gain * distance - self.offset)

    def forward(self, x):
        B, T, D = x.shape
        memory = x.new_zeros(B, D, D)
        reads = []
        for start in range(0, T, self.chunk_size):
            piece = x[:, start : start + self.chunk_size]
            queries = F.normalize(self.to_q(piece), dim=-1)
            keys = F.normalize(self.to_k(piece), dim=-1)
            values = self.to_v(piece)
            reads.append(torch.einsum("bvk,bck->bcv", memory, queries))
            weight = self.surprise(memory, keys, values)
            memory = torch.sigmoid(self.decay) * memory + torch.einsum("bcv,bck->bvk", weight * values, keys)
        return self.norm(torch.cat(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln_in = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.g = nn.Linear(d_model, d_model)
        self.ln_mlp = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.SiLU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, causal):
        h = self.ln_in(x)
        a = self.attn(h, h, h, attn_mask=causal, need_weights=False)[0]
        m = self.mem(h)
        x = x + torch.lerp(m, a, torch.sigmoid(self.g(h)))
        return x + self.mlp(self.ln_mlp(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        causal = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), 1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, causal)
        return self.head(self.ln(x))
