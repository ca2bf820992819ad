import torch
import torch.nn as nn
import torch.nn.functional as F


class KeyEncoder(nn.Module):
    """Multi-slot key code: every coordinate picks its slot by softmax attention over the slots."""

    def __init__(self, dim, slots=1):
        super().__init__()
        self.dim, self.slots = dim, slots
        self.proj = nn.Linear(dim, dim * slots)

    def forward(self, x):
        return F.softmax(self.proj(x).view(*x.shape[:-1], self.dim, self.slots), dim=-1).amax(-1) / self.dim ** 0.5


class NeuralMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.key = KeyEncoder(dim)
        self.value = nn.Linear(dim, dim)
        self.query = KeyEncoder(dim)
        self.surprise = nn.Linear(2 * dim, dim)
        self.decay = nn.Parameter(torch.randn(1, dim, 1) * 0.2 + 2)

    def forward(self, x):
        B, T, D = x.shape
        K, V, Q = self.key(x), self.value(x), self.query(x)
        M = x.new_zeros(B, D, D)
        y = []
        for t in range(T):
            v_hat = torch.bmm(M, K[:, t].unsqueeze(2)).squeeze(2)
            s = torch.sigmoid(self.surprise(torch.cat([V[:, t], v_hat], 1)))
            M = torch.sigmoid(self.decay) * M + torch.bmm((s * V[:, t]).unsqueeze(2), K[:, t].unsqueeze(1))
            y.append(torch.bmm(M, Q[:, t].unsqueeze(2)).squeeze(2))
        return torch.stack(y, 1)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.a, self.m = nn.MultiheadAttention(dim, heads, batch_first=True), NeuralMemory(dim)
        self.gate, self.f = nn.Linear(dim, dim), nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.l1, self.l2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x):
        n, h = x.size(1), self.l1(x)
        att = self.a(h, h, h, attn_mask=torch.triu(torch.ones(n, n, device=x.device), 1).bool(), need_weights=False)[0]
        x = x + torch.lerp(self.m(h), att, torch.sigmoid(self.gate(h)))
        return x + self.f(self.l2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.e, self.p = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.o = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        return self.o(self.layers(self.e(tokens) + self.p(torch.arange(tokens.size(1), device=tokens.device))))
