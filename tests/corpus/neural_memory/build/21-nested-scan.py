import torch, torch.nn as nn, torch.nn.functional as F
from functools import reduce


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, heads=2):
        super().__init__()
        self.h = heads
        self.norm = nn.LayerNorm(dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.err_gate = nn.Conv1d(heads, heads, dim // heads, groups=heads)   # one detector a head
        self.fade = nn.Parameter(torch.randn(1, heads, 1, 1) * 0.1 + 2)
        self.mix = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        k, v = self.kv(self.norm(x)).view(b, n, 2, self.h, d // self.h).permute(2, 1, 0, 3, 4)
        k = F.normalize(k, dim=-1)

        def scan(carry, t):
            mem, ys = carry
            guess = torch.matmul(mem, k[t].unsqueeze(-1)).squeeze(-1)
            s = F.sigmoid(self.err_gate(v[t] - guess))            # b, h, 1
            delta = (s * v[t]).unsqueeze(-1).matmul(k[t].unsqueeze(-2))
            mem = F.sigmoid(self.fade).mul(mem).add(delta)
            return mem, ys + [mem.matmul(k[t].unsqueeze(-1)).flatten(1)]

        start = (x.new_zeros(b, self.h, d // self.h, d // self.h), [])
        _, ys = reduce(scan, range(n), start)
        return self.mix(torch.stack(ys, 1))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, dim * 3)
        self.o = nn.Linear(dim, dim)
        self.heads = heads
        self.mem = NeuralMemory(dim)
        self.logit = nn.Parameter(torch.zeros(dim))
        self.ff = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim * 2), nn.SiLU(), nn.Linear(dim * 2, dim))

    def attend(self, h):
        b, n, d = h.shape
        q, k, v = self.qkv(h).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, d))

    def forward(self, x):
        h = self.ln(x)
        g = self.logit.sigmoid()        # one learned ratio a channel
        x = x + g * self.attend(h) + (1 - g) * self.mem(h)
        return x + self.ff(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=300, d_model=64, n_heads=4, n_layers=2, context=256):
        super().__init__()
        self.e = nn.Embedding(vocab_size, d_model)
        self.p = nn.Parameter(torch.zeros(1, context, d_model))
        self.b = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)))
        self.f = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        return self.f(self.b(self.e(tokens) + self.p[:, :tokens.shape[1]]))
