from dataclasses import dataclass, field

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
    decay: float = 0.97            # forgetting per token
    init_std: float = 0.02
    betas: tuple = field(default=(0.9, 0.95))


class NeuralMemory(nn.Module):
    """Hebbian matrix memory. Surprise = how far the recalled value is from the actual one."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.decay = cfg.decay
        self.q = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.k = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.v = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(2 * cfg.d_model, cfg.d_model), nn.ReLU(), nn.Linear(cfg.d_model, 1))

    def init_state(self, batch, like):
        return torch.zeros(batch, self.v.out_features, self.k.out_features, device=like.device, dtype=like.dtype)

    def step(self, x_t, M):
        k_t = F.normalize(self.k(x_t), dim=-1)
        v_t = self.v(x_t)
        recalled = torch.bmm(M, k_t.unsqueeze(-1)).squeeze(-1)
        surprise = torch.sigmoid(self.surprise_net(torch.cat([v_t, v_t - recalled], dim=-1)))
        M = self.decay * M + surprise.unsqueeze(-1) * torch.bmm(v_t.unsqueeze(-1), k_t.unsqueeze(1))
        return torch.bmm(M, self.q(x_t).unsqueeze(-1)).squeeze(-1), M

    def forward(self, x):
        M = self.init_state(x.size(0), x)
        outs = []
        for t in range(x.size(1)):
            y, M = self.step(x[:, t], M)
            outs.append(y)
        return torch.stack(outs, dim=1)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(cfg.d_model), nn.LayerNorm(cfg.d_model)
        self.attn = nn.MultiheadAttention(cfg.d_model, cfg.n_heads, batch_first=True)
        self.memory = NeuralMemory(cfg)
        self.modulate = nn.Linear(cfg.d_model, cfg.d_model)
        self.mlp = nn.Sequential(nn.Linear(cfg.d_model, 4 * cfg.d_model), nn.GELU(), nn.Linear(4 * cfg.d_model, cfg.d_model))

    def forward(self, x, mask):
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.memory(h)
        # memory modulates how much of the attention output is let through
        fused = attn_out * torch.sigmoid(self.modulate(mem_out)) + mem_out
        x = x + fused
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, decay=0.97):
        super().__init__()
        self.cfg = cfg = Config(vocab_size, d_model, n_heads, n_layers, max_len, decay)
        self.tok = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.pos = nn.Embedding(cfg.max_len, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln = nn.LayerNorm(cfg.d_model)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        self.apply(self._init)

    def _init(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.cfg.init_std)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), diagonal=1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.ln(x))
