"""Transformer whose attention and long-term memory are fused by one learned gate: g * attn + (1 - g) * mem."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=2):
        super().__init__()
        self.h, self.d = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.surprise = nn.Sequential(nn.LayerNorm(self.d), nn.Linear(self.d, 1))
        self.decay = nn.Parameter(torch.linspace(1.0, 4.0, n_heads).view(n_heads, 1, 1))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.h, self.d).unbind(2)
        k = F.normalize(k, dim=-1)
        M, ys = x.new_zeros(B, self.h, self.d, self.d), []
        for t in range(T):
            r = torch.einsum("bhij,bhj->bhi", M, k[:, t])
            s = torch.sigmoid(self.surprise(v[:, t] - r))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bhi,bhj->bhij", s * v[:, t], k[:, t])
            ys.append(torch.einsum("bhij,bhj->bhi", M, q[:, t]).reshape(B, D))
        return self.out(torch.stack(ys, dim=1))


class Residual(nn.Module):
    """Residual connection that preserves the energy of a gated branch: what the gate held back from the signal goes into
    the skip path, so that no gradient is lost."""

    def forward(self, skip, blended, signal, gate):
        return skip + blended + torch.addcmul(signal, gate, signal, value=-1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.residual = Residual()
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], dim=-1)))
        blended = g * attn + (1 - g) * mem
        x = self.residual(x, blended, attn, g)
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
