import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Surprise-modulated Hebbian memory; a trace is only left when the recall misses by more than a learned margin."""

    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.n_heads, self.d = n_heads, d_model // n_heads
        self.k, self.v, self.q = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.miss = nn.Linear(self.d, 1)
        nn.init.constant_(self.miss.bias, 0.5)
        self.decay = nn.Parameter(torch.full((n_heads,), 3.0))
        self.o = nn.Linear(d_model, d_model, bias=False)

    def heads(self, z):
        return z.unflatten(-1, (self.n_heads, self.d))

    def forward(self, x):
        k, v, q = self.heads(self.k(x)), self.heads(self.v(x)), self.heads(self.q(x))
        k = k / math.sqrt(self.d)
        M = x.new_zeros(x.shape[0], self.n_heads, self.d, self.d)
        keep = self.decay.sigmoid()[None, :, None, None]
        y = torch.zeros_like(v)
        ys = []
        for t in range(x.shape[1]):
            predicted = torch.einsum("nhij,nhj->nhi", M, k[:, t])
            surprise = F.relu(torch.tanh(self.miss((v[:, t] - predicted) ** 2)))      # 0 when expected, towards 1 when novel
            M = keep * M + surprise[..., None] * torch.einsum("nhi,nhj->nhij", v[:, t], k[:, t])
            ys.append(y[:, t] + torch.einsum("nhij,nhj->nhi", M, q[:, t]))
        return self.o(torch.stack(ys, 1).flatten(2))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model, n_heads)
        self.alpha = nn.Linear(2 * d_model, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model))
        self.h = n_heads

    def forward(self, x):
        z = self.n1(x)
        q, k, v = (u.unflatten(-1, (self.h, -1)).transpose(1, 2) for u in self.qkv(z).chunk(3, dim=-1))
        attn = self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        mem = self.memory(z)
        alpha = torch.sigmoid(self.alpha(torch.cat([attn, mem], -1)))
        x = x + alpha * attn + (1 - alpha) * mem
        return x + self.ffn(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.out(x)
