import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Associative memory over paired channels, in the spirit of holographic representations: a key occupies the even
    half of the address space, a probe the odd half, a query both."""

    def __init__(self, d_model=64, d_mem=24):
        super().__init__()
        self.d_mem = d_mem
        self.to_key = nn.Linear(d_model, d_mem, bias=False)
        self.to_value = nn.Linear(d_model, d_mem, bias=False)
        self.to_query = nn.Linear(d_model, 2 * d_mem, bias=False)
        self.surprise = nn.Sequential(nn.Linear(2 * d_mem, d_mem), nn.GELU(), nn.Linear(d_mem, d_mem))
        self.decay = nn.Parameter(torch.zeros(2 * d_mem) + 2.0)
        self.out = nn.Linear(d_mem, d_model, bias=False)

    def address(self, k):
        return F.pad(k, (0, self.d_mem))

    def probe(self, k):
        return self.address(k).roll(self.d_mem, dims=-1)

    def forward(self, x):
        k, v, q = F.normalize(self.to_key(x), dim=-1), self.to_value(x), self.to_query(x)
        keep = torch.sigmoid(self.decay)
        M = x.new_zeros(x.size(0), self.d_mem, 2 * self.d_mem)
        reads = []
        for t in range(x.size(1)):
            retrieved = torch.einsum("bvk,bk->bv", M, self.probe(k[:, t]))
            s = torch.sigmoid(self.surprise(torch.cat([v[:, t], v[:, t] - retrieved], dim=-1)))
            M = M * keep + torch.einsum("bv,bk->bvk", s * v[:, t], self.address(k[:, t]))
            reads.append(torch.einsum("bvk,bk->bv", M, q[:, t]))
        return self.out(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
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
