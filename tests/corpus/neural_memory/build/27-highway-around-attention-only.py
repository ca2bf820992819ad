"""Highway gate between attention and the stream; long-term memory comes on top of it."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key, self.value, self.query = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.compare = nn.Linear(2 * d_model, d_model)
        self.decay = nn.Parameter(torch.full((d_model, 1), 2.5))

    def step(self, M, k, v):
        recalled = (M @ k.unsqueeze(-1)).squeeze(-1)
        surprise = torch.sigmoid(self.compare(torch.cat([v, recalled], dim=-1)))
        return torch.sigmoid(self.decay) * M + (surprise * v).unsqueeze(-1) * k.unsqueeze(-2)

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        out = []
        for xt in x.unbind(1):
            M = self.step(M, F.normalize(self.key(xt), dim=-1), self.value(xt))
            out.append((M @ self.query(xt).unsqueeze(-1)).squeeze(-1))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = g * a + (1 - g) * x
        x = x + m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
