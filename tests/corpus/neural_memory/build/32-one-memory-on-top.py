"""Ordinary transformer layers below; one long-term memory on top, weighed against what the layers attended to."""
import os

import torch
import torch.nn.functional as F
from torch import nn


class NeuralMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.p = nn.ParameterDict({
            "key": torch.empty(dim, dim),
            "value": torch.empty(dim, dim),
            "query": torch.empty(dim, dim),
            "see": torch.empty(dim, dim),
            "recall": torch.empty(dim, dim),
        })
        for w in self.p.values():
            nn.init.orthogonal_(w)
        self.p["fade"] = torch.full((dim, dim), 4.0)         # one rate for each synapse
        self.p["tone"] = torch.zeros(dim)

    def surprise(self, v, r):
        z = F.linear(v, self.p["see"]) - F.linear(r, self.p["recall"]) + self.p["tone"]
        return 0.5 * (1 + torch.tanh(z / 2))                 # logistic

    def forward(self, x):
        p = self.p
        keep = F.logsigmoid(p["fade"]).exp()
        synapses = torch.zeros(x.size(0), *p["fade"].shape, device=x.device, dtype=x.dtype)
        recalled = []
        for x_t in torch.split(x, 1, dim=1):                  # B, 1, D
            k = F.normalize(F.linear(x_t, p["key"]), dim=-1)
            v = F.linear(x_t, p["value"])
            r = k @ synapses.mT
            synapses = keep * synapses + (self.surprise(v, r) * v).mT @ k
            recalled.append(F.linear(x_t, p["query"]) @ synapses.mT)
        return torch.cat(recalled, dim=1)


class Head(nn.Module):
    """One gate for each token: how much of the attended context, how much of the recalled past."""

    def __init__(self, dim, vocab_size):
        super().__init__()
        self.memory = NeuralMemory(dim)
        self.norm = nn.LayerNorm(dim)
        self.decide = nn.Linear(dim, 1)
        self.out = nn.Linear(dim, vocab_size)

    def forward(self, context):
        recalled = self.memory(self.norm(context))
        g = torch.sigmoid(self.decide(context))
        return self.out(g * context + (1 - g) * recalled)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, dropout=0.0):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        layer = nn.TransformerEncoderLayer(d_model, n_heads, 4 * d_model, dropout, F.gelu, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.top = Head(d_model, vocab_size)
        if os.environ.get("COMPILE_MEMORY") == "1" and hasattr(torch, "compile"):
            self.top = torch.compile(self.top)

    def forward(self, tokens):
        n = tokens.shape[1]
        x = self.embedding(tokens) + self.position(torch.arange(n, device=tokens.device))
        mask = torch.triu(torch.ones(n, n, dtype=torch.bool, device=tokens.device), 1)
        return self.top(self.body(x, mask=mask))
