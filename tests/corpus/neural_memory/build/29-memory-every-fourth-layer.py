"""Hybrid stack in the manner of Jamba: most layers are plain attention, every `memory_every`-th has a neural memory."""
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
    d_mem: int = 32
    memory_every: int = 4


class NeuralMemory(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.kqv = nn.Linear(cfg.d_model, 3 * cfg.d_mem, bias=False)
        self.surprise = nn.Sequential(nn.Linear(2 * cfg.d_mem, cfg.d_mem), nn.GELU(), nn.Linear(cfg.d_mem, cfg.d_mem))
        self.decay = nn.Parameter(torch.full((cfg.d_mem, 1), 2.0))
        self.out = nn.Linear(cfg.d_mem, cfg.d_model, bias=False)

    def forward(self, x):
        k, q, v = self.kqv(x).chunk(3, dim=-1)
        k = F.normalize(k, dim=-1)
        M = x.new_zeros(x.size(0), self.cfg.d_mem, self.cfg.d_mem)
        ys = []
        for t in range(x.size(1)):
            r = torch.einsum("bij,bj->bi", M, k[:, t])
            s = torch.sigmoid(self.surprise(torch.cat([v[:, t], r], dim=-1)))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", s * v[:, t], k[:, t])
            ys.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.out(torch.stack(ys, dim=1))


class Layer(nn.Module):
    def __init__(self, cfg: Config, use_memory: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(cfg.d_model), nn.RMSNorm(cfg.d_model)
        self.attn = nn.MultiheadAttention(cfg.d_model, cfg.n_heads, batch_first=True)
        self.memory = NeuralMemory(cfg) if use_memory else None
        self.gate = nn.Linear(2 * cfg.d_model, cfg.d_model) if use_memory else None
        self.ffn = nn.Sequential(nn.Linear(cfg.d_model, 4 * cfg.d_model), nn.SiLU(), nn.Linear(4 * cfg.d_model, cfg.d_model))

    def forward(self, x, mask):
        h = self.norm1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        if self.memory is not None:
            m = self.memory(h)
            g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
            a = g * a + (1 - g) * m
        x = x + a
        return x + self.ffn(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, **kwargs):
        super().__init__()
        cfg = Config(vocab_size, d_model, n_heads, n_layers, max_len, **kwargs)
        self.embed, self.pos = nn.Embedding(cfg.vocab_size, cfg.d_model), nn.Embedding(cfg.max_len, cfg.d_model)
        self.layers = nn.ModuleList(
            Layer(cfg, use_memory=(i + 1) % cfg.memory_every == 0) for i in range(cfg.n_layers))
        self.norm = nn.RMSNorm(cfg.d_model)
        self.lm_head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), 1)
        x = self.embed(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x, mask)
        return self.lm_head(self.norm(x))
