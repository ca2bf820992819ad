"""
Design notes
------------
* The state maps an *affine* key [k; 1] to a value, so the memory has an offset column as well (helps with the mean of
  the values; otherwise the first keys have to absorb it).
* Values are stored per head. Keys have half the width of the values.
* The write strength is one scalar per head. It sees the size of the prediction error relative to the size of the value
  and the alignment of both, through a tiny two-layer network shared by the heads.
* Retention is a learned constant per head plus an input-dependent part (initialised at zero).
"""
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F


def _affine(z: torch.Tensor) -> torch.Tensor:
    return F.pad(z, (0, 1), value=1.0)


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, n_heads: int = 4, expand_v: int = 2):
        super().__init__()
        self.n_heads, self.d_k = n_heads, d_model // n_heads // 2
        self.d_v = self.d_k * expand_v
        self.k_proj = nn.Linear(d_model, n_heads * self.d_k, bias=False)
        self.q_proj = nn.Linear(d_model, n_heads * self.d_k, bias=False)
        self.v_proj = nn.Linear(d_model, n_heads * self.d_v, bias=False)
        self.strength = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Sigmoid())
        self.retention_base = nn.Parameter(torch.linspace(1.5, 4.5, n_heads))
        self.retention_x = nn.Linear(d_model, n_heads, bias=False)
        nn.init.zeros_(self.retention_x.weight)
        self.norm = nn.GroupNorm(n_heads, n_heads * self.d_v)
        self.o_proj = nn.Linear(n_heads * self.d_v, d_model, bias=False)

    def _features(self, v: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        ratio = (v - p).norm(dim=-1) / (v.norm(dim=-1) + 1e-4)
        align = (v * p).mean(dim=-1)
        return torch.stack([ratio, align], dim=-1)

    def forward(self, x: torch.Tensor, state: Optional[torch.Tensor] = None) -> torch.Tensor:
        B, T, _ = x.shape
        k = _affine(F.normalize(self.k_proj(x).view(B, T, self.n_heads, self.d_k), dim=-1))
        q = _affine(F.normalize(self.q_proj(x).view(B, T, self.n_heads, self.d_k), dim=-1))
        v = self.v_proj(x).view(B, T, self.n_heads, self.d_v)
        keep = torch.sigmoid(self.retention_base + self.retention_x(x))[..., None, None]
        if state is None:
            state = x.new_zeros(B, self.n_heads, self.d_v, self.d_k + 1)
        y = []
        t = 0
        while t < T:
            predicted = torch.einsum("bhvk,bhk->bhv", state, k[:, t])
            s = self.strength(self._features(v[:, t], predicted))
            state = torch.einsum("bhv,bhk->bhvk", s * v[:, t], k[:, t]).add(keep[:, t] * state)
            y.append(torch.einsum("bhvk,bhk->bhv", state, q[:, t]).reshape(B, -1))
            t += 1
        normed = [self.norm(step) for step in y]
        return self.o_proj(torch.stack(normed, dim=1))


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.input_norm, self.post_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads)
        self.head_gate = nn.Parameter(torch.zeros(n_heads))
        self.gate_x = nn.Linear(d_model, n_heads, bias=False)
        self.n_heads = n_heads
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.input_norm(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.head_gate + self.gate_x(h)).repeat_interleave(x.size(-1) // self.n_heads, dim=-1)
        x = x + attn * g + mem * (1.0 - g)
        return x + self.mlp(self.post_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_position: int = 512):
        super().__init__()
        self.embed_tokens, self.embed_positions = nn.Embedding(vocab_size, d_model), nn.Embedding(max_position, d_model)
        self.layers = nn.ModuleList(DecoderLayer(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.size(1)
        mask = torch.full((T, T), float("-inf"), device=tokens.device).triu(1)
        x = self.embed_tokens(tokens) + self.embed_positions(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x, mask)
        return self.lm_head(self.norm(x))
