"""The stream of experience as a recursion: what a moment recalls depends on the memory that all moments before it made."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_assoc=28):
        super().__init__()
        self.K = nn.Linear(d_model, d_assoc, bias=False)
        self.V = nn.Linear(d_model, d_assoc, bias=False)
        self.back = nn.Linear(d_assoc, d_model, bias=False)
        self.error_weights = nn.Parameter(torch.randn(d_assoc) * 0.3)
        self.input_weights = nn.Parameter(torch.randn(d_assoc) * 0.3)
        self.error_threshold = nn.Parameter(torch.zeros(()))
        self.half_life = nn.Parameter(torch.tensor(8.0))

    def live(self, keys, values, M):
        if not keys:
            return []
        (k, *later_keys), (v, *later_values) = keys, values
        expected = torch.tensordot(k.unsqueeze(1) * M, torch.ones_like(k[0]), dims=([2], [0]))
        z = (v - expected).abs() @ self.error_weights + v @ self.input_weights - self.error_threshold
        strength = 1 / (1 + torch.exp(-z))
        kept = torch.exp2(-1 / F.softplus(self.half_life))
        M = kept * M + torch.stack([s * torch.outer(vi, ki) for s, vi, ki in zip(strength, v, k)])
        return [(M @ k.unsqueeze(2)).squeeze(2), *self.live(later_keys, later_values, M)]

    def forward(self, x):
        keys = list(F.normalize(self.K(x), dim=-1).unbind(1))
        values = list(self.V(x).unbind(1))
        nothing_yet = x.new_zeros(len(x), values[0].size(-1), keys[0].size(-1))
        return self.back(torch.stack(self.live(keys, values, nothing_yet), dim=1))


class Attention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(d_model, d_model // n_heads) for _ in range(3)) for _ in range(n_heads))
        self.join = nn.Linear(d_model, d_model)

    def forward(self, x):
        n = x.size(1)
        future = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        heard = []
        for wq, wk, wv in self.heads:
            q, k, v = wq(x), wk(x), wv(x)
            heard.append((q @ k.mT * q.size(-1) ** -0.5).masked_fill(future, float("-inf")).softmax(-1) @ v)
        return self.join(torch.cat(heard, -1))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.n_layers = n_layers
        self.embed = nn.Embedding(vocab_size, d_model)
        self.place = nn.Embedding(max_len, d_model)
        for i in range(n_layers):
            self.add_module(f"norm_{i}", nn.LayerNorm(d_model))
            self.add_module(f"attention_{i}", Attention(d_model, n_heads))
            self.add_module(f"memory_{i}", NeuralMemory(d_model))
            self.add_module(f"balance_{i}", nn.Linear(d_model, 1))
            self.add_module(f"mlp_{i}", nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 128), nn.GELU(), nn.Linear(128, d_model)))
        self.answer = nn.Linear(d_model, vocab_size)

    def layer(self, i, x):
        norm, attention, memory, balance, mlp = (getattr(self, f"{n}_{i}") for n in ("norm", "attention", "memory", "balance", "mlp"))
        h = norm(x)
        a = attention(h)
        weight = balance(a).sigmoid()
        x = x + weight * a + (1 - weight) * memory(h)
        return x + mlp(x)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.arange(tokens.size(1), device=tokens.device))
        for i in range(self.n_layers):
            x = self.layer(i, x)
        return self.answer(x)
