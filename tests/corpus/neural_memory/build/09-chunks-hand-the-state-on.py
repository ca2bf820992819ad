"""The model reads the sequence in segments; a typed memory state is handed from each segment to the next."""

from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F


class MemoryState(NamedTuple):
    matrix: torch.Tensor  # [B, D, D], rows are value channels
    seen: int


class NeuralMemory(nn.Module):
    def __init__(self, dim: int, rank: int = 4):
        super().__init__()
        self.w_k, self.w_v, self.w_q = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.start_left = nn.Parameter(0.05 * torch.randn(dim, rank))
        self.start_right = nn.Parameter(0.05 * torch.randn(rank, dim))
        self.judge_actual = nn.Linear(dim, dim)
        self.judge_recalled = nn.Linear(dim, dim, bias=False)
        self.judge_out = nn.Linear(dim, 1)
        self.theta = nn.Parameter(torch.tensor(1.5))

    def begin(self, batch: int) -> MemoryState:
        first = self.start_left @ self.start_right
        return MemoryState(first.expand(batch, *first.shape), 0)

    def forward(self, x: torch.Tensor, state: Optional[MemoryState] = None) -> tuple[torch.Tensor, MemoryState]:
        if state is None:
            state = self.begin(x.size(0))
        k = F.normalize(self.w_k(x), dim=-1)
        v, q = self.w_v(x), F.normalize(self.w_q(x), dim=-1)
        keep = torch.exp(-F.softplus(-self.theta))
        out = []
        for t in range(x.size(1)):
            recalled = torch.matmul(state.matrix, k[:, t, :, None])[..., 0]
            hidden = torch.tanh(self.judge_actual(v[:, t]) + self.judge_recalled(recalled))
            surprise = torch.sigmoid(self.judge_out(hidden))
            step = torch.matmul((surprise * v[:, t])[..., None], k[:, t, None, :])
            state = MemoryState(keep * state.matrix + step, state.seen + 1)
            out.append(torch.matmul(state.matrix, q[:, t, :, None])[..., 0])
        return torch.stack(out, 1), state


class SwiGLU(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.w1, self.w3, self.w2 = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    segment = 4

    def __init__(self, dim, heads):
        super().__init__()
        self.pre, self.pre_ff = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.alpha = nn.Linear(dim, dim)
        self.ff = SwiGLU(dim)

    def recall(self, h):
        state, parts = None, []
        for piece in h.split(self.segment, dim=1):
            read, state = self.memory(piece, state)
            parts.append(read)
        return torch.cat(parts, 1)

    def forward(self, x):
        T = x.size(1)
        h = self.pre(x)
        mask = torch.ones(T, T, device=x.device).tril() == 0
        attended = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        alpha = torch.sigmoid(self.alpha(attended))
        x = x + alpha * attended + (1 - alpha) * self.recall(h)
        return x + self.ff(self.pre_ff(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=1024):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.emb(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
