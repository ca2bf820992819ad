import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Matrix memory, H heads. The write strength is the size of the prediction error squashed to (0, 1)."""

    def __init__(self, d_model=64, heads=2):
        super().__init__()
        self.heads, self.hd = heads, d_model // heads
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.decay = nn.Parameter(torch.full((1, heads, 1, 1), 2.2))

    def forward(self, x):
        b, t, d = x.shape
        k = F.normalize(self.k_proj(x).view(b, t, self.heads, self.hd), dim=-1)
        q = F.normalize(self.q_proj(x).view(b, t, self.heads, self.hd), dim=-1)
        v = self.v_proj(x).view(b, t, self.heads, self.hd)
        lam = self.decay.sigmoid()
        mem = x.new_zeros(b, self.heads, self.hd, self.hd)
        y = []
        for i in range(t):
            pred = torch.einsum("bhvk,bhk->bhv", mem, k[:, i])
            err = v[:, i] - pred
            # zero error -> 0, error as large as the value itself -> ~0.76
            rel = err.norm(dim=-1) / (v[:, i].norm(dim=-1) + 1e-6)
            surprise = torch.sigmoid(4.0 * rel - 2.0)
            mem = lam * mem + torch.einsum("bh,bhv,bhk->bhvk", surprise, v[:, i], k[:, i])
            y.append(torch.einsum("bhvk,bhk->bhv", mem, q[:, i]))
        return self.o_proj(torch.stack(y, 1).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.g = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        causal = torch.triu(x.new_ones(n, n, dtype=torch.bool), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        m = self.mem(h)
        g = torch.sigmoid(self.g(torch.cat((a, m), -1)))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        return self.head(self.blocks(self.tok(tokens) + self.pos[: tokens.size(1)]))
