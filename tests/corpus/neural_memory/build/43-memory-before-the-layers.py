"""A long-term memory in front of the transformer: each token embedding is blended with what it brings back."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.surprise = nn.GRUCell(dim, dim)                 # compares value (input) with recall (hidden)
        self.to_gate = nn.Linear(dim, dim)
        self.decay = nn.Parameter(torch.full((1, 1, dim), 2.5))

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        recalled_all = []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            recalled = torch.einsum("bij,bj->bi", M, k)
            gate = torch.sigmoid(self.to_gate(self.surprise(v, recalled)))
            M = M * self.decay.sigmoid() + torch.einsum("bi,bj->bij", gate * v, k)
            recalled_all.append(recalled)
        return torch.stack(recalled_all, dim=1)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, mask):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        n = tokens.size(1)
        x = self.tok(tokens) + self.pos(torch.arange(n, device=tokens.device))
        m = self.memory(x)
        g = torch.sigmoid(self.gate(torch.cat([x, m], dim=-1)))
        x = g * x + (1 - g) * m
        mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.ln_f(x))
