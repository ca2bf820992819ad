import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.to_k, self.to_v, self.to_q = nn.Linear(d_model, d_mem), nn.Linear(d_model, d_mem), nn.Linear(d_model, d_mem)
        self.surprise = nn.Sequential(nn.Linear(d_mem, d_mem), nn.ReLU(), nn.Linear(d_mem, 1))
        self.decay = nn.Parameter(torch.full((d_mem,), 3.0))
        self.to_out = nn.Linear(d_mem, d_model)

    def write(self, k, v):
        M = k.new_zeros(k.size(0), self.d_mem, self.d_mem)
        for t in range(k.size(1)):
            kt, vt = k[:, t], v[:, t]
            err = vt - torch.einsum("bvk,bk->bv", M, kt)
            gate = torch.sigmoid(self.surprise(err))
            M = torch.sigmoid(self.decay)[:, None] * M + torch.einsum("bv,bk->bvk", gate * vt, kt)
        return M

    def read(self, M, q):
        return torch.einsum("bvk,btk->btv", M, q)

    def forward(self, x):
        M = self.write(F.normalize(self.to_k(x), dim=-1), self.to_v(x))
        return self.to_out(self.read(M, self.to_q(x)))


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
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
