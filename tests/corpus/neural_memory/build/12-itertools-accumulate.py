"""The recurrence as itertools.accumulate over the tokens: no loop statement in the memory."""

import itertools
import operator

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_k=24, d_v=48):
        super().__init__()
        self.lift = nn.ModuleDict({"q": nn.Linear(d_model, d_k), "k": nn.Linear(d_model, d_k), "v": nn.Linear(d_model, d_v)})
        self.tidy = nn.LayerNorm(d_k)
        self.doubt = nn.Sequential(nn.LayerNorm(d_v), nn.Linear(d_v, d_v), nn.Sigmoid())
        self.stay = nn.Parameter(torch.full((d_k, 1), 2.2))
        self.drop = nn.Linear(d_v, d_model)

    def step(self, carried, token):
        state, _ = carried
        q, k, v = token
        expected = torch.einsum("bkv,bk->bv", state, k)
        news = self.doubt(v - expected) * v
        state = torch.baddbmm(state * self.stay.sigmoid(), k.unsqueeze(2), news.unsqueeze(1))
        return state, torch.einsum("bkv,bk->bv", state, q)

    def forward(self, x):
        scale = self.tidy.normalized_shape[0] ** -0.5
        q = self.tidy(self.lift["q"](x)) * scale
        k = self.tidy(self.lift["k"](x)) * scale
        v = self.lift["v"](x)
        empty = x.new_zeros(x.shape[0], k.shape[-1], v.shape[-1])
        tokens = zip(q.unbind(1), k.unbind(1), v.unbind(1))
        history = itertools.accumulate(tokens, self.step, initial=(empty, None))
        reads = map(operator.itemgetter(1), itertools.islice(history, 1, None))
        return self.drop(torch.stack(tuple(reads), dim=1))


class Mixer(nn.Module):
    """Weighs attention against memory, one ratio a head of channels."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.ratio = nn.Linear(d_model, n_heads)
        self.per_head = d_model // n_heads

    def forward(self, h):
        future = torch.ones(h.size(1), h.size(1), dtype=torch.bool, device=h.device).triu(1)
        attended, _ = self.attn(h, h, h, attn_mask=future, need_weights=False)
        g = self.ratio(h).sigmoid().repeat_interleave(self.per_head, dim=-1)
        weights = torch.stack((g, 1 - g))
        return (weights * torch.stack((attended, self.memory(h)))).sum(0)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.mixers = nn.ModuleList(Mixer(d_model, n_heads) for _ in range(n_layers))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)) for _ in range(n_layers)
        )
        self.logits = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places.weight[: tokens.size(1)]
        for mix, feed in zip(self.mixers, self.feeds):
            x = x + mix(F.layer_norm(x, x.shape[-1:]))
            x = x + feed(F.layer_norm(x, x.shape[-1:]))
        return self.logits(F.layer_norm(x, x.shape[-1:]))
