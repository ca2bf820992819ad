"""Holographic associative memory: key-value pairs are bound by circular convolution (Plate, 1995)."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def bind(a, b):
    return torch.fft.irfft(torch.fft.rfft(a) * torch.fft.rfft(b), n=a.size(-1))


def unbind(trace, key):
    return torch.fft.irfft(torch.fft.rfft(trace) * torch.fft.rfft(key).conj(), n=trace.size(-1))


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, slots: int = 4):
        super().__init__()
        self.slots = slots
        self.key = nn.Linear(d_model, slots * d_model)
        self.query = nn.Linear(d_model, slots * d_model)
        self.value = nn.Linear(d_model, d_model)
        self.surprise = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.SiLU(), nn.Linear(d_model, 1))
        self.decay_logit = nn.Parameter(torch.full((slots, 1), 3.0))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        B, T, D = x.shape
        keys = F.normalize(self.key(x).view(B, T, self.slots, D), dim=-1)
        queries = F.normalize(self.query(x).view(B, T, self.slots, D), dim=-1)
        values = self.value(x)
        # one holographic trace a slot: [B, slots, D]
        traces = x.new_zeros(B, self.slots, D)
        out = []
        for t in range(T):
            value = values[:, t]
            recalled = unbind(traces, keys[:, t]).mean(1)
            gate = torch.sigmoid(self.surprise(torch.cat((value - recalled, recalled), -1)))
            written = bind(keys[:, t], (gate * value).unsqueeze(1).expand(-1, self.slots, -1))
            traces = torch.sigmoid(self.decay_logit) * traces + written
            out.append(unbind(traces, queries[:, t]).mean(1))
        return self.norm(torch.stack(out, 1))


class Layer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, 1)
        self.n1, self.n2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.ReLU(), nn.Linear(2 * d_model, d_model))

    def forward(self, x, mask):
        h = self.n1(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1.0 - g) * self.mem(h)
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=512, d_model=64, n_heads=4, n_layers=2, context=1024):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.randn(context, d_model) * 0.02)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.shape[1]
        mask = torch.full((T, T), float("-inf"), device=tokens.device).triu(1)
        x = self.tok(tokens) + self.pos[:T]
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(x)
