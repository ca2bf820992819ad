"""Small LM in which every token first recalls, then attends.

Recall happens on the token embedding: the stream entering the blocks is a blend of what the token is and what it
brings to mind, and the attention layers then work on the enriched stream.
"""
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Hyper:
    decay: float = 0.97
    key_dim: int = 32
    value_dim: int = 64
    dropout: float = 0.0


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, hyper=Hyper()):
        super().__init__()
        self.to_key = nn.Linear(d_model, hyper.key_dim, bias=False)
        self.to_value = nn.Linear(d_model, hyper.value_dim, bias=False)
        self.surprise = nn.Sequential(
            nn.Linear(2 * hyper.value_dim, 64), nn.Tanh(), nn.Linear(64, 1)
        )
        self.back = nn.Linear(hyper.value_dim, d_model)
        self.register_buffer("decay", torch.tensor(hyper.decay))

    def forward(self, x):
        B, T, _ = x.shape
        keys = F.normalize(self.to_key(x), dim=-1)
        values = self.to_value(x)
        M = x.new_zeros(B, values.size(-1), keys.size(-1))
        recalled = []
        for t in range(T):
            k, v = keys[:, t], values[:, t]
            r = (M @ k.unsqueeze(-1)).squeeze(-1)
            recalled.append(r)
            s = torch.sigmoid(self.surprise(torch.cat([v, r], dim=-1)))
            M = self.decay * M + s.unsqueeze(-1) * v.unsqueeze(-1) * k.unsqueeze(-2)
        return self.back(torch.stack(recalled, dim=1))


class Recall(nn.Module):
    """g * memory + (1 - g) * token"""

    def __init__(self, d_model):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)

    def forward(self, x):
        m = self.memory(self.norm(x))
        g = torch.sigmoid(self.gate(torch.cat([x, m], dim=-1)))
        return g * m + (1 - g) * x


class Block(nn.Module):
    def __init__(self, d_model, n_heads, dropout):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.recall = Recall(d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, Hyper.dropout) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), 1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        x = self.recall(x)
        for blk in self.blocks:
            x = blk(x, mask)
        return self.head(self.ln_f(x))
