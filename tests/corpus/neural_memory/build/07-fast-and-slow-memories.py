"""Two matrices in one memory, a fast and a slow one, each with its own fading rate and its own surprise."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Store(nn.Module):
    """What one matrix needs: how it is compared, how fast it fades."""

    def __init__(self, width: int, half_life: float):
        super().__init__()
        self.compare = nn.Linear(width, width)
        self.log_half_life = nn.Parameter(torch.tensor(half_life).log())

    def advance(self, matrix: Tensor, key: Tensor, value: Tensor) -> Tensor:
        miss = value - torch.einsum("b k v, b k -> b v", matrix, key)
        write = self.compare(miss).sigmoid() * value
        kept = torch.exp2(-torch.exp(-self.log_half_life))
        return torch.addcmul(kept * matrix, key[:, :, None], write[:, None, :])


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, width: int = 40):
        super().__init__()
        self.key, self.value, self.query = (nn.Linear(d_model, width) for _ in range(3))
        self.fast, self.slow = Store(width, 2.0), Store(width, 60.0)
        self.balance = nn.Linear(d_model, 2)
        self.out = nn.Linear(width, d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        key, query = F.normalize(self.key(x), dim=-1), F.normalize(self.query(x), dim=-1)
        value, balance = self.value(x), self.balance(x).softmax(-1)
        width = value.shape[-1]
        fast = slow = x.new_zeros(batch, width, width)
        said = []
        for t in range(steps):
            fast = self.fast.advance(fast, key[:, t], value[:, t])
            slow = self.slow.advance(slow, key[:, t], value[:, t])
            both = balance[:, t, 0, None, None] * fast + balance[:, t, 1, None, None] * slow
            said.append(torch.einsum("b k v, b k -> b v", both, query[:, t]))
        return self.out(torch.stack(said, dim=1))


class Layer(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.norm_a, self.norm_m, self.norm_f = (nn.LayerNorm(d_model) for _ in range(3))
        self.attention = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Bilinear(d_model, d_model, 1)
        self.feed = nn.Sequential(nn.Linear(d_model, 3 * d_model), nn.Mish(), nn.Linear(3 * d_model, d_model))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm_a(x)
        attended, _ = self.attention(h, h, h, attn_mask=mask, need_weights=False)
        remembered = self.memory(self.norm_m(x))
        gate = torch.sigmoid(self.gate(attended, remembered))
        x = x + (gate * attended + (1 - gate) * remembered)
        return x + self.feed(self.norm_f(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 128, d_model: int = 64, n_heads: int = 8, n_layers: int = 2, max_len: int = 256):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.place = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads) for _ in range(n_layers))
        self.last = nn.LayerNorm(d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = tokens.shape[1]
        mask = torch.ones(steps, steps, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.token(tokens) + self.place.weight[:steps]
        for layer in self.layers:
            x = layer(x, mask)
        return F.linear(self.last(x), self.token.weight)
