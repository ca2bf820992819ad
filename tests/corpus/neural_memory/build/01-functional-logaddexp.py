"""All of the memory is a pure function over named parameters; the module only owns them."""
import torch
from torch import nn


def memory_step(p, M, x):
    k = torch.nn.functional.normalize(x @ p["key"], dim=-1)
    v = x @ p["value"]
    recalled = torch.matmul(M, k.unsqueeze(-1)).squeeze(-1)
    features = torch.cat([v, recalled, v * recalled, (v - recalled) ** 2], dim=-1)
    surprise = torch.tanh(features @ p["h"]) @ p["o"] + p["bias"]
    surprise = torch.exp(-torch.logaddexp(torch.zeros_like(surprise), -surprise))   # = sigmoid
    M = torch.exp(-p["rate"].exp()) * M + (surprise * v).unsqueeze(-1) @ k.unsqueeze(-2)
    return M, torch.matmul(M, (x @ p["query"]).unsqueeze(-1)).squeeze(-1)


class NeuralMemory(nn.Module):
    def __init__(self, d=32, hidden=24):
        super().__init__()
        init = lambda *s: nn.Parameter(torch.randn(*s) / s[0] ** 0.5)
        self.p = nn.ParameterDict({
            "key": init(d, d), "value": init(d, d), "query": init(d, d),
            "h": init(4 * d, hidden), "o": init(hidden, 1), "bias": nn.Parameter(torch.zeros(1)),
            "rate": nn.Parameter(torch.tensor(-2.0)),
        })

    def forward(self, x):
        M, ys = torch.zeros(x.size(0), x.size(-1), x.size(-1)).to(x), []
        for token in x.transpose(0, 1):
            M, y = memory_step(self.p, M, token)
            ys.append(y)
        return torch.stack(ys).transpose(0, 1)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=100, d_model=32, n_heads=4, n_layers=2, max_len=128):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList()
        for _ in range(n_layers):
            layer = nn.Module()
            layer.ln = nn.LayerNorm(d_model)
            layer.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
            layer.memory = NeuralMemory(d_model)
            layer.gate = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.GELU(), nn.Linear(d_model // 2, d_model), nn.Sigmoid())
            layer.ff = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
            self.layers.append(layer)
        self.ln = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        n = tokens.size(1)
        x = self.emb(tokens) + self.pos(torch.arange(n, device=tokens.device))
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        for L in self.layers:
            h = L.ln(x)
            after = x + L.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
            recalled = L.memory(h)
            g = L.gate(after)
            x = recalled + g * (after - recalled)
            x = x + L.ff(x)
        return self.head(self.ln(x))
