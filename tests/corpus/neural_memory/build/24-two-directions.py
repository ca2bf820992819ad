"""Bidirectional associative memory: one pass from the left and one from the right, as in a biLSTM."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class OneWay(nn.Module):
    def __init__(self, d_model, d_mem):
        super().__init__()
        self.d_mem = d_mem
        self.k, self.v, self.q = nn.Linear(d_model, d_mem), nn.Linear(d_model, d_mem), nn.Linear(d_model, d_mem)
        self.surprise = nn.Linear(2 * d_mem, d_mem)
        self.decay = nn.Parameter(torch.full((d_mem, 1), 2.0))

    def forward(self, x):
        M = x.new_zeros(x.size(0), self.d_mem, self.d_mem)
        out = []
        for x_t in x.unbind(1):
            k, v = F.normalize(self.k(x_t), dim=-1), self.v(x_t)
            r = (M @ k.unsqueeze(-1)).squeeze(-1)
            s = torch.sigmoid(self.surprise(torch.cat([v, r], dim=-1)))
            M = torch.sigmoid(self.decay) * M + (s * v).unsqueeze(-1) @ k.unsqueeze(-2)
            out.append((M @ self.q(x_t).unsqueeze(-1)).squeeze(-1))
        return torch.stack(out, 1)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.left_to_right = OneWay(d_model, d_mem)
        self.right_to_left = OneWay(d_model, d_mem)
        self.out = nn.Linear(2 * d_mem, d_model)

    def forward(self, x):
        fwd = self.left_to_right(x)
        bwd = self.right_to_left(x.flip(1)).flip(1)
        return self.out(torch.cat([fwd, bwd], dim=-1))


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
        g = torch.sigmoid(self.gate(torch.cat([a, m], -1)))
        x = x + g * a + (1.0 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
