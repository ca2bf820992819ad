import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    # Consolidates from the newest token to the oldest, so that recent tokens have faded most when all is read.
    def __init__(self, d=64):
        super().__init__()
        self.kq = nn.Linear(d, d)
        self.val = nn.Linear(d, d)
        self.err = nn.Linear(d, d)
        self.rate = nn.Parameter(torch.full((d, 1), 2.0))

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        y = [None] * x.size(1)
        for t in reversed(range(x.size(1))):
            k = F.normalize(self.kq(x[:, t]), dim=-1)
            v = self.val(x[:, t])
            s = self.err(v - (M @ k[:, :, None]).squeeze(-1)).sigmoid()
            M = self.rate.sigmoid() * M + (s * v)[:, :, None] * k[:, None, :]
            y[t] = (M @ k[:, :, None]).squeeze(-1)
        return torch.stack(y, 1)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.memory, self.gate = NeuralMemory(d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1))[0]
        g = torch.sigmoid(self.gate(x))
        x = x + g * a + (1 - g) * self.memory(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
