"""Memory that makes room when it is surprised: the prediction error decides how much of the old matrix is cleared."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_slots=32):
        super().__init__()
        self.address = nn.Linear(d_model, n_slots)
        self.content = nn.Linear(d_model, d_model)
        self.lookup = nn.Linear(d_model, n_slots)
        self.surprise = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.ELU(), nn.Linear(d_model, n_slots))
        nn.init.constant_(self.surprise[-1].bias, -2.0)

    def forward(self, x):
        address = self.address(x).softmax(-1)
        lookup = self.lookup(x).softmax(-1)
        content = self.content(x)
        table = x.new_zeros(x.size(0), address.size(-1), x.size(-1))
        seen = []
        for w, r, c in zip(address.unbind(1), lookup.unbind(1), content.unbind(1)):
            retrieved = torch.einsum("bn,bnd->bd", w, table)
            clear = torch.sigmoid(self.surprise(torch.cat([c, c - retrieved], -1)))
            table = table * (1 - clear).unsqueeze(-1)
            table = table + w.unsqueeze(-1) * c.unsqueeze(-2)
            seen.append(torch.einsum("bn,bnd->bd", r, table))
        return torch.stack(seen, 1)


class Attention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.kv, self.o = nn.Linear(d_model, d_model), nn.Linear(d_model, 2 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        split = lambda z: z.view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)
        k, v = self.kv(x).chunk(2, -1)
        scores = split(self.q(x)) @ split(k).transpose(-1, -2) / (D // self.n_heads) ** 0.5
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), float("-inf"))
        return self.o((scores.softmax(-1) @ split(v)).transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln_a, self.ln_f = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn, self.mem = Attention(d_model, n_heads), NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.ln_a(x)
        a, m = self.attn(h), self.mem(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
        return x + self.ff(self.ln_f(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False))

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        return self.head(self.blocks(x))
