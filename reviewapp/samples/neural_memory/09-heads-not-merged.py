import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Multi-head associative memory with surprise-gated writes."""

    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.h = n_heads
        self.dh = d_model // n_heads
        self.Wq = nn.Linear(d_model, d_model)
        self.Wk = nn.Linear(d_model, d_model)
        self.Wv = nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(2 * self.dh, 1)
        self.decay = nn.Parameter(torch.full((1, n_heads, 1, 1), 2.2))

    def _split(self, z):
        return z.view(z.size(0), z.size(1), self.h, self.dh)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = self._split(self.Wq(x)), self._split(self.Wk(x)), self._split(self.Wv(x))
        k = F.normalize(k, dim=-1)
        M = torch.zeros(B, self.h, self.dh, self.dh, device=x.device)
        decay = torch.sigmoid(self.decay)
        outs = []
        for t in range(T):
            kt, vt, qt = k[:, t], v[:, t], q[:, t]
            retrieved = torch.einsum("bhvk,bhk->bhv", M, kt)
            s = torch.sigmoid(self.surprise(torch.cat([vt, retrieved], dim=-1)))
            M = decay * M + s.unsqueeze(-1) * torch.einsum("bhv,bhk->bhvk", vt, kt)
            outs.append(torch.einsum("bhvk,bhk->bhv", M, qt))
        return torch.stack(outs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * attn + (1 - g) * mem
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
