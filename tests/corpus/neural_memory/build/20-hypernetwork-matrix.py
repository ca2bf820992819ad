"""The hypernetwork view of fast weights: a slow network proposes a low-dimensional edit of the memory matrix."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n=16):
        super().__init__()
        self.n = n
        self.key = nn.Linear(d_model, n)
        self.value = nn.Linear(d_model, n)
        self.association = nn.Sequential(nn.Linear(2 * n, 32), nn.Tanh(), nn.Linear(32, n * n))
        self.surprise = nn.Linear(n, n)
        self.decay = nn.Parameter(torch.full((n, n), 2.0))
        self.out = nn.Linear(n, d_model)

    def forward(self, x):
        B, T, _ = x.shape
        M = torch.zeros(B, self.n, self.n, device=x.device)
        ys = []
        for t in range(T):
            k = F.normalize(self.key(x[:, t]), dim=-1)
            v = self.value(x[:, t])
            retrieved = torch.einsum("bij,bj->bi", M, k)
            surprise = torch.sigmoid(self.surprise(v - retrieved))
            edit = self.association(torch.cat([v, k], dim=-1)).view(B, self.n, self.n)
            M = torch.sigmoid(self.decay) * M + surprise.unsqueeze(-1) * edit
            ys.append(torch.einsum("bij,bj->bi", M, k))
        return self.out(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Sequential(nn.Linear(d_model, d_model), nn.Sigmoid())
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = self.gate(h)
        x = x + g * a + (1 - g) * m
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
