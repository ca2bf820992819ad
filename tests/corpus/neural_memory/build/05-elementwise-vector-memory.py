import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    """A vector of traces per sequence. Value and key are bound by multiplication."""

    def __init__(self, dim=64):
        super().__init__()
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.surprise = nn.Linear(dim, dim)
        self.decay = nn.Parameter(torch.full((dim,), 2.0))

    def forward(self, x):
        trace = torch.zeros_like(x[:, 0])
        out = []
        for t in range(x.size(1)):
            k, v, q = torch.tanh(self.key(x[:, t])), self.value(x[:, t]), torch.tanh(self.query(x[:, t]))
            recalled = trace * k
            s = torch.sigmoid(self.surprise(v - recalled))
            trace = torch.sigmoid(self.decay) * trace + s * (v * k)
            out.append(trace * q)
        return torch.stack(out, dim=1)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mem = NeuralMemory(dim)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())
        self.ffn = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, mask):
        h = self.norm(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.mem(h)
        g = self.gate(torch.cat((a, m), -1))
        x = x + (g * a + (1 - g) * m)
        return x + self.ffn(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=500, d_model=64, n_heads=4, n_layers=3, max_len=128):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.ones(T, T, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for b in self.blocks:
            x = b(x, mask)
        return self.head(x)
