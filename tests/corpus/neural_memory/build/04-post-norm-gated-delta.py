"""Gated delta network as the memory: forget, erase what the key held, write the new value. Post-norm blocks."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, n_heads: int = 2):
        super().__init__()
        assert d_model % n_heads == 0
        self.h, self.d = n_heads, d_model // n_heads
        self.to_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.beta = nn.Sequential(nn.Linear(2 * self.d, self.d), nn.Tanh(), nn.Linear(self.d, 1), nn.Sigmoid())
        self.forget = nn.Parameter(torch.empty(n_heads).uniform_(2, 4))
        self.to_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.to_qkv(x).view(B, T, 3, self.h, self.d).permute(2, 1, 0, 3, 4)  # [T, B, h, d] each
        q, k = F.normalize(q, dim=-1), F.normalize(F.silu(k), dim=-1)
        alpha = torch.sigmoid(self.forget).view(1, self.h, 1, 1)
        S = torch.zeros(B, self.h, self.d, self.d, dtype=x.dtype, device=x.device)
        ys = []
        for qt, kt, vt in zip(q, k, v):
            S = alpha * S
            old = (S * kt.unsqueeze(-2)).sum(-1)
            beta = self.beta(torch.cat([vt, old], dim=-1))
            S = S - beta.unsqueeze(-1) * (old.unsqueeze(-1) * kt.unsqueeze(-2))
            S = S + beta.unsqueeze(-1) * (vt.unsqueeze(-1) * kt.unsqueeze(-2))
            ys.append((S * qt.unsqueeze(-2)).sum(-1))
        return self.to_out(torch.stack(ys).permute(1, 0, 2, 3).reshape(B, T, C))


class PostNormBlock(nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.ratio = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.Sigmoid())
        self.norm_mix = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.norm_ffn = nn.LayerNorm(d_model)

    def forward(self, x):
        T = x.size(1)
        causal = nn.Transformer.generate_square_subsequent_mask(T, device=x.device)
        a, _ = self.attn(x, x, x, attn_mask=causal, need_weights=False)
        m = self.mem(x)
        r = self.ratio(torch.cat((x, a), -1))
        x = self.norm_mix(x + r * m + (1 - r) * a)
        return self.norm_ffn(x + self.ffn(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=300, d_model=48, n_heads=3, n_layers=3, max_seq=256):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.wpe = nn.Embedding(max_seq, d_model)
        self.h = nn.ModuleList([PostNormBlock(d_model, n_heads) for _ in range(n_layers)])
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.size(1)]
        for block in self.h:
            x = block(x)
        return self.lm_head(x)
