"""Three sources a layer - attention, memory and the skip path - weighted by a router."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d, heads=4):
        super().__init__()
        self.heads, self.hd = heads, d // heads
        self.wq, self.wk, self.wv, self.wo = [nn.Linear(d, d, bias=False) for _ in range(4)]
        self.surprise_w = nn.Parameter(torch.ones(heads, self.hd) / self.hd)
        self.surprise_b = nn.Parameter(torch.zeros(heads))
        self.log_decay = nn.Parameter(torch.full((heads,), -2.5))

    def forward(self, x):
        B, T, D = x.shape
        shape = (B, T, self.heads, self.hd)
        q, k, v = self.wq(x).view(shape), F.normalize(self.wk(x).view(shape), dim=-1), self.wv(x).view(shape)
        decay = torch.exp(-F.softplus(self.log_decay))[:, None, None]
        S = x.new_zeros(B, self.heads, self.hd, self.hd)
        ys = []
        for t in range(T):
            err = v[:, t] - torch.einsum("bhij,bhj->bhi", S, k[:, t])
            s = torch.sigmoid((err.abs() * self.surprise_w).sum(-1) + self.surprise_b)
            S = decay * S + torch.einsum("bh,bhi,bhj->bhij", s, err, k[:, t])
            ys.append(torch.einsum("bhij,bhj->bhi", S, q[:, t]))
        return self.wo(torch.stack(ys, 1).reshape(B, T, D))


class RoutedBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.attn = nn.MultiheadAttention(d, heads, batch_first=True, bias=False)
        self.mem = NeuralMemory(d, heads)
        self.router = nn.Linear(d, 3)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))

    def forward(self, x, mask):
        h = self.n1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.mem(h)
        w_attn, w_mem, w_skip = torch.softmax(self.router(h), dim=-1).split(1, dim=-1)
        x = x + w_attn * a + w_mem * m + w_skip * h
        return x + self.mlp(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(RoutedBlock(d_model, n_heads) for _ in range(n_layers))
        self.norm, self.head = nn.RMSNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), 1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for b in self.blocks:
            x = b(x, mask)
        return self.head(self.norm(x))
