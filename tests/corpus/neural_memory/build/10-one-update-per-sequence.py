import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """The association matrix of the whole context in one product, no slow Python loop."""

    def __init__(self, d_model=64):
        super().__init__()
        self.q = nn.Linear(d_model, d_model)
        self.k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, d_model)
        self.write = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        T = x.size(1)
        q, k, v = self.q(x), F.softmax(self.k(x), dim=-1), self.v(x)
        age = torch.arange(T - 1, -1, -1, device=x.device, dtype=x.dtype)
        strength = torch.sigmoid(self.write(x)).squeeze(-1) * torch.sigmoid(self.decay) ** age
        M = torch.einsum("bt,btv,btk->bvk", strength, v, k)
        return torch.einsum("bvk,btk->btv", M, q)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.alpha = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        h = self.ln1(x)
        attn = self.attn(h, h, h, attn_mask=torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1))[0]
        alpha = torch.sigmoid(self.alpha(h))
        x = x + alpha * attn + (1 - alpha) * self.mem(h)
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
