"""Surprise in Shannon's sense: the negative log-likelihood of the value under a Gaussian whose mean is what the memory
recalls and whose variance is learned. The gate asks whether it is more than the learned entropy of a usual moment."""
import math
from typing import Tuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_key: int = 32):
        super().__init__()
        self.key = nn.Linear(d_model, d_key)
        self.value = nn.Linear(d_model, d_model)
        self.query = nn.Linear(d_model, d_key)
        self.log_var = nn.Parameter(torch.zeros(d_model))
        self.usual = nn.Parameter(torch.tensor(0.5))            # nats a channel that count as "as usual"
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.decay = nn.Parameter(torch.full((d_key,), 3.0))

    def surprise(self, value: Tensor, recalled: Tensor) -> Tensor:
        var = self.log_var.exp().expand_as(value)
        nll = F.gaussian_nll_loss(recalled, value, var, full=False, reduction="none").mean(-1, keepdim=True)
        return torch.sigmoid(self.sharpness * (nll - self.usual))

    def moment(self, M: Tensor, k: Tensor, v: Tensor, q: Tensor) -> Tuple[Tensor, Tensor]:
        recalled = torch.linalg.vecdot(M, k.unsqueeze(-2))
        s = self.surprise(v, recalled)
        M = M * torch.sigmoid(self.decay) + (s * (v - recalled)).unsqueeze(-1) * k.unsqueeze(-2)
        return M, torch.linalg.vecdot(M, q.unsqueeze(-2))

    def forward(self, x: Tensor) -> Tensor:
        k, v, q = F.normalize(self.key(x), dim=-1), self.value(x), self.query(x)
        M = x.new_zeros(x.size(0), v.size(-1), k.size(-1))
        ys = []
        for kt, vt, qt in zip(k.unbind(1), v.unbind(1), q.unbind(1)):
            M, y = self.moment(M, kt, vt, qt)
            ys.append(y)
        return torch.stack(ys, dim=1)


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln1, self.ln2, self.ln_m = (nn.LayerNorm(d_model) for _ in range(3))
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True, bias=False)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Bilinear(d_model, d_model, 1)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.ln_m(self.memory(h))
        g = torch.sigmoid(self.gate(a, m) / math.sqrt(a.size(-1)))
        x = x + g * m + (1 - g) * a
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.size(1)
        mask = torch.ones(T, T, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for blk in self.blocks:
            x = blk(x, mask)
        return self.head(self.ln_f(x))
