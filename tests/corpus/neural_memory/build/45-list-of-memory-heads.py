import torch
import torch.nn as nn
import torch.nn.functional as F


class MemoryHead(nn.Module):
    """A small associative memory of its own; heads differ in size and in how long they remember."""

    def __init__(self, d_model, keys, values, retention):
        super().__init__()
        self.keys, self.values = keys, values
        self.address = nn.Linear(d_model, keys)
        self.content = nn.Linear(d_model, values)
        self.detector = nn.Sequential(nn.LayerNorm(values), nn.Linear(values, 1))
        self.retention = nn.Parameter(torch.logit(torch.tensor(retention)))

    def forward(self, x):
        M = torch.zeros(x.size(0), self.keys, self.values, device=x.device)
        out = []
        for t in range(x.size(1)):
            k = F.normalize(self.address(x[:, t]), dim=-1)
            v = self.content(x[:, t])
            recalled = torch.matmul(k.unsqueeze(1), M).squeeze(1)
            novelty = torch.sigmoid(self.detector(v - recalled))
            M = torch.sigmoid(self.retention) * M + torch.matmul(k.unsqueeze(2), (novelty * v).unsqueeze(1))
            out.append(torch.matmul(k.unsqueeze(1), M).squeeze(1))
        return torch.stack(out, dim=1)


class NeuralMemory(nn.Module):
    SIZES = ((8, 32, 0.5), (16, 16, 0.9), (32, 16, 0.99))

    def __init__(self, d_model):
        super().__init__()
        self.heads = nn.ModuleList(MemoryHead(d_model, *size) for size in self.SIZES)
        self.merge = nn.Linear(sum(values for _, values, _ in self.SIZES), d_model)
        self.swish_gate = nn.Linear(d_model, d_model)

    def forward(self, x):
        together = self.merge(torch.cat([head(x) for head in self.heads], dim=-1))
        return together * F.silu(self.swish_gate(x))


class Layer(nn.Module):
    def __init__(self, d_model, n_heads, with_memory):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model) if with_memory else None
        self.gate = nn.Linear(2 * d_model, d_model) if with_memory else None
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.norm1(x)
        y = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        if self.memory is not None:
            m = self.memory(h)
            g = torch.sigmoid(self.gate(torch.cat([y, m], dim=-1)))
            y = g * y + (1 - g) * m
        x = x + y
        return x + self.mlp(self.norm2(x))


class MemoryTransformer(nn.Module):
    """Every second layer has a long-term memory."""

    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=4, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads, with_memory=i % 2 == 0) for i in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        n = tokens.size(1)
        mask = torch.triu(torch.ones(n, n, dtype=torch.bool, device=tokens.device), 1)
        x = self.tok(tokens) + self.pos(torch.arange(n, device=tokens.device))
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))
