"""Continual-learning transformer: the memory survives from one call to the next."""
import math

import torch
from torch import nn
from torch.nn import functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim, n_heads=1):
        super().__init__()
        self.dim = dim
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.q = nn.Linear(dim, dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        self.decay_logit = nn.Parameter(torch.tensor(3.0))
        self.M = None           # not part of the checkpoint

    def reset(self):
        self.M = None

    def _state(self, batch, like):
        if self.M is None or self.M.size(0) != batch or self.M.device != like.device:
            self.M = like.new_zeros(batch, self.dim, self.dim)
        return self.M.detach()  # truncated BPTT: no gradient into the call before

    def forward(self, x):
        M = self._state(x.size(0), x)
        k = F.normalize(self.k(x), dim=-1)
        q = F.normalize(self.q(x), dim=-1)
        v = self.v(x)
        lam = torch.sigmoid(self.decay_logit)
        out = []
        for t in range(x.size(1)):
            err = v[:, t] - torch.einsum("bij,bj->bi", M, k[:, t])
            # mean squared prediction error, squashed to (0, 1)
            s = torch.sigmoid(err.pow(2).mean(dim=-1) - 1.0)
            M = lam * M + s[:, None, None] * torch.einsum("bi,bj->bij", err, k[:, t])
            out.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        self.M = M.detach()
        return self.o(torch.stack(out, 1))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        w = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
        w = w.masked_fill(torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), -1e9).softmax(-1)
        return self.out((w @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mem = Attention(dim, heads), NeuralMemory(dim)
        self.gate = nn.Linear(2 * dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        h = self.n1(x)
        a, m = self.attn(h), self.mem(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], -1)))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def reset_memory(self):
        for b in self.blocks:
            b.mem.reset()

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(self.norm(x))
