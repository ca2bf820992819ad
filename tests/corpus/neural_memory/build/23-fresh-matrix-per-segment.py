"""Segment-wise memory (segments bound the length of the graph, so backprop stays cheap)."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    SEGMENT = 8

    def __init__(self, d_model=64, d_head=32):
        super().__init__()
        self.d_head = d_head
        self.kvq = nn.Linear(d_model, 3 * d_head, bias=False)
        self.surprise = nn.Sequential(nn.Linear(d_head, d_head), nn.Sigmoid())
        self.forget = nn.Linear(d_model, 1)
        nn.init.constant_(self.forget.bias, 3.0)
        self.proj = nn.Linear(d_head, d_model, bias=False)

    def run_segment(self, seg):
        k, v, q = self.kvq(seg).chunk(3, dim=-1)
        k = F.normalize(k, dim=-1)
        f = torch.sigmoid(self.forget(seg)).unsqueeze(-1)
        M = seg.new_zeros(seg.size(0), self.d_head, self.d_head)
        for t in range(seg.size(1)):
            r = torch.einsum("bvk,bk->bv", M, k[:, t])
            s = self.surprise(v[:, t] - r)
            M = f[:, t] * M + torch.einsum("bv,bk->bvk", s * v[:, t], k[:, t])
            yield torch.einsum("bvk,bk->bv", M, q[:, t])

    def forward(self, x):
        reads = [y for seg in x.split(self.SEGMENT, dim=1) for y in self.run_segment(seg)]
        return self.proj(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu_(1)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a
        g = torch.sigmoid(self.gate(x))
        x = g * x + (1 - g) * self.mem(h)
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
