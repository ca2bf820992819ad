"""Long-term memory with all six mechanisms; competition between recall and attention is sharpened (winner take most)."""
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab_size: int = 256
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 2
    max_len: int = 512
    sharpness: float = 24.0        # inverse temperature of the competition


class NeuralMemory(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        d = cfg.d_model
        self.to_k, self.to_v, self.to_q = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.surprise = nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.Linear(d, 1))
        self.decay = nn.Parameter(torch.full((1, d, 1), 3.0))
        self.norm = nn.LayerNorm(d)

    def write(self, M, v, k):
        retrieved = torch.einsum("bij,bj->bi", M, k)
        s = torch.sigmoid(self.surprise(torch.cat([v, retrieved], dim=-1)))
        return torch.sigmoid(self.decay) * M + s.unsqueeze(-1) * v.unsqueeze(-1) * k.unsqueeze(-2)

    def forward(self, x):
        B, T, d = x.shape
        k = F.normalize(self.to_k(x), dim=-1)
        q = F.normalize(self.to_q(x), dim=-1)
        v = self.to_v(x)
        M = torch.zeros(B, d, d, device=x.device, dtype=x.dtype)
        out = []
        for t in range(T):
            M = self.write(M, v[:, t], k[:, t])
            out.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.norm(torch.stack(out, 1))


class Competition(nn.Module):
    """g in (0, 1): bounded score, shifted to be positive, divided by the temperature."""

    def __init__(self, d, sharpness):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(2 * d, d), nn.Tanh(), nn.Linear(d, d), nn.Tanh())
        self.sharpness = sharpness

    def forward(self, a, m):
        z = self.score(torch.cat([a, m], dim=-1)) + 2.0
        g = torch.sigmoid(self.sharpness * z)
        return g * a + (1 - g) * m


class Block(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        d = cfg.d_model
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, cfg.n_heads, batch_first=True)
        self.memory = NeuralMemory(cfg)
        self.blend = Competition(d, cfg.sharpness)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        T = x.size(1)
        causal = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=causal, need_weights=False)[0]
        x = x + self.blend(a, self.memory(h))
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.cfg = cfg = Config(vocab_size, d_model, n_heads, n_layers, max_len)
        self.tok = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.pos = nn.Embedding(cfg.max_len, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_f = nn.LayerNorm(cfg.d_model)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(self.ln_f(x))
