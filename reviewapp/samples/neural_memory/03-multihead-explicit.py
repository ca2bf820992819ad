"""
Neural Long-Term Memory transformer
===================================

Mechanisms
----------
* NeuralMemory           associative matrix memory, one matrix per head and sequence
* SurpriseGate           sigmoid of a learned function of the prediction error
* per-head decay         nn.Parameter, squashed to (0, 1)
* outer product write    V (x) K^T
* recurrent update       one step per token
* MemoryAttentionGate    g * attn + (1 - g) * mem
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class MemoryConfig:
    d_model: int = 64
    n_mem_heads: int = 4
    initial_decay: float = 0.97

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_mem_heads


class SurpriseGate(nn.Module):
    """Maps the prediction error of one memory head to a write strength in (0, 1)."""

    def __init__(self, d_head: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d_head, d_head), nn.SiLU(), nn.Linear(d_head, 1))

    def forward(self, value: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        error = value - predicted
        return torch.sigmoid(self.net(error))  # [B, H, 1]


class NeuralMemory(nn.Module):
    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        self.cfg = cfg
        d = cfg.d_model
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.surprise = SurpriseGate(cfg.d_head)
        p = torch.tensor(cfg.initial_decay)
        self.raw_decay = nn.Parameter(torch.logit(p).repeat(cfg.n_mem_heads))
        self.norm = nn.LayerNorm(cfg.d_head)
        self.proj = nn.Linear(d, d, bias=False)

    @property
    def decay(self) -> torch.Tensor:
        return torch.sigmoid(self.raw_decay).view(1, -1, 1, 1)

    def init_state(self, batch: int, like: torch.Tensor) -> torch.Tensor:
        c = self.cfg
        return torch.zeros(batch, c.n_mem_heads, c.d_head, c.d_head, device=like.device, dtype=like.dtype)

    @staticmethod
    def read(state: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return torch.matmul(state, key.unsqueeze(-1)).squeeze(-1)

    def update(self, state: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        predicted = self.read(state, key)
        strength = self.surprise(value, predicted)
        association = value.unsqueeze(-1) * key.unsqueeze(-2)  # V (x) K^T
        return self.decay * state + strength.unsqueeze(-1) * association

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        H, d = self.cfg.n_mem_heads, self.cfg.d_head
        q, k, v = self.qkv(x).view(B, T, 3, H, d).permute(2, 1, 0, 3, 4)  # [T, B, H, d]
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)

        state = self.init_state(B, x)
        outputs = []
        for t in range(T):
            state = self.update(state, k[t], v[t])
            outputs.append(self.norm(self.read(state, q[t])).reshape(B, D))
        return self.proj(torch.stack(outputs, dim=1))


class MemoryAttentionGate(nn.Module):
    """Convex combination of the attention output and the memory output."""

    def __init__(self, d_model: int):
        super().__init__()
        self.linear = nn.Linear(3 * d_model, d_model)

    def forward(self, x, attn, mem):
        g = torch.sigmoid(self.linear(torch.cat((x, attn, mem), dim=-1)))
        return g * attn + (1.0 - g) * mem


class CausalSelfAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = CausalSelfAttention(d_model, n_heads)
        self.memory = NeuralMemory(MemoryConfig(d_model=d_model))
        self.fusion = MemoryAttentionGate(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.ln1(x)
        x = x + self.fusion(h, self.attn(h), self.memory(h))
        x = x + self.mlp(self.ln2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def _self_test():
    torch.manual_seed(0)
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    logits = model(tokens)
    assert logits.shape == (2, 16, 256)
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 256), tokens[:, 1:].reshape(-1))
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
    print("ok", loss.item())


if __name__ == "__main__":
    _self_test()
