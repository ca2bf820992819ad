from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class Config:
    vocab_size: int = 256
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 2
    max_len: int = 512
    d_mem: int = 64


class NeuralMemory(nn.Module):
    """Synaptic memory matrix of the model: M [d_mem, d_mem]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.key = nn.Linear(cfg.d_model, cfg.d_mem, bias=False)
        self.value = nn.Linear(cfg.d_model, cfg.d_mem, bias=False)
        self.query = nn.Linear(cfg.d_model, cfg.d_mem, bias=False)
        self.surprise = nn.Linear(cfg.d_mem, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))
        self.out = nn.Linear(cfg.d_mem, cfg.d_model, bias=False)
        self.d_mem = cfg.d_mem

    def forward(self, x):
        batch, steps, _ = x.shape
        M = torch.zeros(self.d_mem, self.d_mem, device=x.device)
        ys = []
        for t in range(steps):
            xt = x[:, t]
            k = F.normalize(self.key(xt), dim=-1)
            q = F.normalize(self.query(xt), dim=-1)
            v = self.value(xt)
            predicted = k @ M.T                                   # [B, d_mem]
            s = torch.sigmoid(self.surprise((v - predicted).abs()))  # [B, 1]
            M = torch.sigmoid(self.decay) * M + (s * v).T @ k / batch
            ys.append(q @ M.T)
        return self.out(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.ln1 = nn.LayerNorm(cfg.d_model)
        self.attn = nn.MultiheadAttention(cfg.d_model, cfg.n_heads, batch_first=True)
        self.memory = NeuralMemory(cfg)
        self.gate = nn.Linear(2 * cfg.d_model, 1)
        self.ln2 = nn.LayerNorm(cfg.d_model)
        self.mlp = nn.Sequential(
            nn.Linear(cfg.d_model, 4 * cfg.d_model), nn.GELU(), nn.Linear(4 * cfg.d_model, cfg.d_model)
        )

    def forward(self, x):
        T = x.size(1)
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, **overrides):
        super().__init__()
        self.cfg = cfg = Config(**overrides)
        self.tok = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.pos = nn.Embedding(cfg.max_len, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_f = nn.LayerNorm(cfg.d_model)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
