"""The whole model is a stream: one token goes through all layers before the next one comes in. Attention keeps its
keys and values, the long-term memory keeps nothing but a matrix."""
from __future__ import annotations

import torch
from torch import Tensor, nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim: int = 64):
        super().__init__()
        self.read_key, self.write_key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.comparator = nn.Sequential(nn.Linear(dim, dim // 2), nn.Softplus(), nn.Linear(dim // 2, dim))
        self.stay = nn.Parameter(torch.randn(dim) * 0.2 + 2.5)

    def blank(self, batch: int) -> Tensor:
        return self.stay.new_zeros(batch, self.stay.numel(), self.stay.numel())

    def forward(self, x: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        """x: one moment [B, D], M: what the moment before left [B, D, D]."""
        k = F.normalize(self.write_key(x), dim=-1)
        v = self.value(x)
        mismatch = v - torch.matmul(M, k[..., None])[..., 0]
        surprise = self.comparator(mismatch).sigmoid()
        M = torch.sigmoid(self.stay)[:, None] * M + torch.matmul((surprise * v)[..., None], k[:, None, :])
        return torch.matmul(M, self.read_key(x)[..., None])[..., 0], M


class StreamAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, past):
        q, k, v = (p.unflatten(-1, (self.heads, -1)).unsqueeze(2) for p in self.qkv(x).chunk(3, -1))
        past = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        return self.o(F.scaled_dot_product_attention(q, *past).flatten(1)), past


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mem = StreamAttention(dim, heads), NeuralMemory(dim)
        self.arbiter = nn.Linear(3 * dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, state):
        past, M = state if state is not None else (None, self.mem.blank(x.shape[0]))
        h = self.n1(x)
        a, past = self.attn(h, past)
        m, M = self.mem(h, M)
        g = torch.sigmoid(self.arbiter(torch.cat([h, a, m], -1)))
        x = x + (g * a + (1 - g) * m)
        return x + self.mlp(self.n2(x)), (past, M)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.out = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False))

    def step(self, token, position, states):
        x = self.tok(token) + self.pos.weight[position]
        new = []
        for blk, st in zip(self.blocks, states):
            x, st = blk(x, st)
            new.append(st)
        return self.out(x), new

    def forward(self, tokens):
        states = [None] * len(self.blocks)
        logits = []
        for i, token in enumerate(tokens.unbind(1)):
            y, states = self.step(token, i, states)
            logits.append(y)
        return torch.stack(logits, 1)
