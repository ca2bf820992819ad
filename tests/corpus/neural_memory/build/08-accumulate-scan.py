"""The stream is folded with itertools.accumulate: `step` takes the memory as the last moment left it, and a moment."""
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import normalize, softplus


class Moment(NamedTuple):
    key: torch.Tensor
    value: torch.Tensor
    seen: torch.Tensor


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, rank: int = 20):
        super().__init__()
        self.associate = nn.ModuleDict({name: nn.Linear(d_model, rank) for name in ("key", "value", "query")})
        self.judge_value = nn.Linear(rank, rank)
        self.judge_recall = nn.Linear(rank, rank, bias=False)
        self.forget = nn.Linear(d_model, rank)
        nn.init.constant_(self.forget.bias, 3.0)
        self.express = nn.Linear(rank, d_model)

    def step(self, memory, moment: Moment):
        recalled = torch.einsum("nvk,nk->nv", memory, moment.key)
        # 1 - exp(-softplus(z)) is the logistic function of z
        surprise = 1 - torch.exp(-softplus(self.judge_value(moment.value) - self.judge_recall(recalled)))
        kept = torch.sigmoid(self.forget(moment.seen))
        return kept[:, :, None] * memory + torch.einsum("nv,nk->nvk", surprise * moment.value, moment.key)

    def forward(self, x):
        key = normalize(self.associate["key"](x), dim=-1)
        value = self.associate["value"](x)
        query = self.associate["query"](x)
        moments = [Moment(*parts) for parts in zip(key.unbind(1), value.unbind(1), x.unbind(1))]
        blank = x.new_zeros(x.size(0), value.size(-1), key.size(-1))
        states = list(accumulate(moments, self.step, initial=blank))[1:]
        return self.express(torch.stack([state @ q.unsqueeze(-1) for state, q in zip(states, query.unbind(1))], 1).squeeze(-1))


class MindBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.balance = nn.Linear(d_model, 1)
        self.norm_a, self.norm_m, self.norm_f = (nn.LayerNorm(d_model) for _ in range(3))
        self.think = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.Mish(), nn.Linear(2 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        h = self.norm_a(x)
        ahead = ~torch.tril(torch.ones(n, n, device=x.device)).bool()
        present = x + self.attention(h, h, h, attn_mask=ahead)[0]
        past = self.memory(self.norm_m(present))
        g = torch.sigmoid(self.balance(present))
        x = g * past + (1 - g) * present
        return x + self.think(self.norm_f(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=60, n_heads=5, n_layers=3, context=128):
        super().__init__()
        self.read = nn.Embedding(vocab_size, d_model)
        self.when = nn.Embedding(context, d_model)
        self.mind = nn.Sequential(*(MindBlock(d_model, n_heads) for _ in range(n_layers)))
        self.speak = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        return self.speak(self.mind(self.read(tokens) + self.when(torch.arange(tokens.size(1), device=tokens.device))))
