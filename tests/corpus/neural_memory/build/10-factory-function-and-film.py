import math
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

Kind = Literal["hebb", "delta"]


class _AssociativeMemory(nn.Module):
    rule: Kind

    def __init__(self, dim: int, key_dim: int):
        super().__init__()
        self.scale = 1 / math.sqrt(key_dim)
        self.key, self.query = nn.Linear(dim, key_dim), nn.Linear(dim, key_dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.seen = nn.Linear(dim, dim)          # sees the value
        self.known = nn.Linear(dim, dim)         # sees what came back for its key
        self.rate = nn.Parameter(torch.tensor(-3.0))
        self.key_dim = key_dim

    def content(self, v, back):
        raise NotImplementedError

    def forward(self, x):
        k, q, v = torch.tanh(self.key(x)) * self.scale, torch.tanh(self.query(x)) * self.scale, self.value(x)
        keep = 1 - torch.sigmoid(self.rate)
        M = x.new_zeros(len(x), x.size(-1), self.key_dim)
        ys = []
        for t in range(x.size(1)):
            back = (M @ k[:, t].unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.seen(v[:, t]) + self.known(back))
            c = surprise * self.content(v[:, t], back)
            M = keep * M + c.unsqueeze(-1) * k[:, t].unsqueeze(-2)
            ys.append((M @ q[:, t].unsqueeze(-1)).squeeze(-1))
        return self.out(torch.stack(ys, 1))


class _Hebb(_AssociativeMemory):
    def content(self, v, back):
        return v


class _Delta(_AssociativeMemory):
    def content(self, v, back):
        return v - back


def NeuralMemory(d_model: int = 64, key_dim: int = 32, kind: Kind = "delta") -> nn.Module:
    """Build the memory; `kind` picks the learning rule."""
    return {"hebb": _Hebb, "delta": _Delta}[kind](d_model, key_dim)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.film = nn.Linear(d_model, 2 * d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        gate, shift = self.film(self.memory(h)).chunk(2, dim=-1)
        x = x + torch.sigmoid(gate) * a + shift  # memory gates attention and adds what it knows
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
