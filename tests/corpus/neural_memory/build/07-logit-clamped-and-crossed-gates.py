from dataclasses import dataclass
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class MemConfig:
    d_model: int = 64
    n_heads: int = 4
    min_decay: float = 0.0
    max_decay: float = 0.995
    decay_init: float = 4.0  # sigmoid(4.0) ~ 0.982


class NeuralMemory(nn.Module):
    """M_t = lambda * M_{t-1} + s_t * v_t k_t^T,   s_t = sigmoid(MLP(v_t - M_{t-1} k_t))"""

    def __init__(self, cfg: MemConfig):
        super().__init__()
        self.cfg = cfg
        D, H = cfg.d_model, cfg.n_heads
        self.dh = D // H
        self.to_q = nn.Linear(D, D, bias=False)
        self.to_k = nn.Linear(D, D, bias=False)
        self.to_v = nn.Linear(D, D, bias=False)
        self.decay = nn.Parameter(torch.full((H, 1, 1), cfg.decay_init))
        self.surprise_net = nn.Sequential(nn.Linear(self.dh, self.dh), nn.ReLU(), nn.Linear(self.dh, 1))
        self.proj = nn.Linear(D, D)

    def _lambda(self) -> torch.Tensor:
        # keep the decay in a sane range, a rate above 1 makes the memory blow up
        return self.decay.clamp(self.cfg.min_decay, self.cfg.max_decay)

    def forward(self, x: torch.Tensor, state: Optional[torch.Tensor] = None) -> Tuple[torch.Tensor, torch.Tensor]:
        B, T, D = x.shape
        H, dh = self.cfg.n_heads, self.dh
        q = self.to_q(x).view(B, T, H, dh)
        k = F.normalize(self.to_k(x).view(B, T, H, dh), dim=-1)
        v = self.to_v(x).view(B, T, H, dh)
        M = state if state is not None else x.new_zeros(B, H, dh, dh)
        lam = self._lambda()
        outs = []
        for t in range(T):
            kt, vt, qt = k[:, t], v[:, t], q[:, t]
            pred = torch.einsum("bhij,bhj->bhi", M, kt)
            s = torch.sigmoid(self.surprise_net(vt - pred))
            M = lam * M + s.unsqueeze(-1) * torch.einsum("bhi,bhj->bhij", vt, kt)
            outs.append(torch.einsum("bhij,bhj->bhi", M, qt).reshape(B, D))
        return self.proj(torch.stack(outs, 1)), M


class GatedFusion(nn.Module):
    """Each stream decides how much of the other one is let through."""

    def __init__(self, d: int):
        super().__init__()
        self.mem_says = nn.Linear(d, d)
        self.attn_says = nn.Linear(d, d)

    def forward(self, a: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.mem_says(m)) * a + torch.sigmoid(self.attn_says(a)) * m


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(MemConfig(d_model, n_heads))
        self.fuse = GatedFusion(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m, _ = self.memory(h)
        x = x + self.fuse(a, m)
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
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
