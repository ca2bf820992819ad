import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """First version: no surprise yet, works, kept for reference."""

    def __init__(self, d_model=64):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        M, out = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device), []
        for t in range(x.size(1)):
            M = torch.sigmoid(self.decay) * M + self.v(x[:, t]).unsqueeze(2) * self.k(x[:, t]).unsqueeze(1)
            out.append((M @ self.q(x[:, t]).unsqueeze(2)).squeeze(2))
        return torch.stack(out, 1)


class SurpriseMemory(nn.Module):
    """Second version: multi-head, written by surprise."""

    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.kvq = nn.Linear(d_model, 3 * d_model)
        self.surprise = nn.Linear(2 * self.d_head, self.d_head)
        self.decay = nn.Parameter(torch.linspace(2.0, 5.0, n_heads).view(1, -1, 1, 1))
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        k, v, q = self.kvq(x).view(B, T, 3, self.n_heads, self.d_head).unbind(2)
        k = F.normalize(k, dim=-1)
        M = x.new_zeros(B, self.n_heads, self.d_head, self.d_head)
        decay, reads = torch.sigmoid(self.decay), []
        for t in range(T):
            r = (M @ k[:, t].unsqueeze(-1)).squeeze(-1)
            s = torch.sigmoid(self.surprise(torch.cat([v[:, t], v[:, t] - r], dim=-1)))
            M = decay * M + (s * v[:, t]).unsqueeze(-1) * k[:, t].unsqueeze(-2)
            reads.append((M @ q[:, t].unsqueeze(-1)).flatten(1))
        return self.out(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads, memory_cls=SurpriseMemory):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = memory_cls(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
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
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), 1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for blk in self.blocks:
            x = blk(x, mask)
        return self.head(self.ln_f(x))
