"""Mamba-flavoured memory: short causal convolution before the projections, step sizes from the input, log-rates a head."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, heads=4, d_key=8, d_val=16, conv=3):
        super().__init__()
        self.heads, self.d_key, self.d_val, self.width = heads, d_key, d_val, conv
        inner = heads * (2 * d_key + d_val)
        self.in_proj = nn.Linear(d_model, inner)
        self.conv = nn.Conv1d(inner, inner, conv, groups=inner)
        self.dt = nn.Linear(d_model, heads)
        self.A_log = nn.Parameter(torch.log(torch.linspace(0.02, 0.5, heads)))
        self.w_val = nn.Parameter(torch.randn(heads, d_val, d_val) / d_val**0.5)
        self.w_err = nn.Parameter(torch.randn(heads, d_val, d_val) / d_val**0.5)
        self.b_gate = nn.Parameter(torch.zeros(heads, d_val))
        self.out = nn.Linear(heads * d_val, d_model)

    def forward(self, x):
        B, T, _ = x.shape
        z = self.in_proj(x).transpose(1, 2)
        z = F.silu(self.conv(F.pad(z, (self.width - 1, 0)))).transpose(1, 2)
        k, q, v = z.split([self.heads * self.d_key, self.heads * self.d_key, self.heads * self.d_val], -1)
        k = F.elu(k.view(B, T, self.heads, self.d_key)) + 1
        k = k / k.sum(-1, keepdim=True)
        q = F.elu(q.view(B, T, self.heads, self.d_key)) + 1
        v = v.view(B, T, self.heads, self.d_val)
        keep = torch.exp(-F.softplus(self.dt(x)) * self.A_log.exp())  # [B, T, H]
        S = x.new_zeros(B, self.heads, self.d_val, self.d_key)
        ys = []
        for t in range(T):
            error = v[:, t] - torch.einsum("bhvk,bhk->bhv", S, k[:, t])
            size = torch.log1p(error.abs())
            z_t = torch.einsum("bhi,hio->bho", v[:, t], self.w_val) + torch.einsum("bhi,hio->bho", size, self.w_err)
            gated = torch.sigmoid(z_t + self.b_gate) * error
            S = keep[:, t, :, None, None] * S + torch.einsum("bhv,bhk->bhvk", gated, k[:, t])
            ys.append(torch.einsum("bhvk,bhk->bhv", S, q[:, t]).flatten(1))
        return self.out(torch.stack(ys, 1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n1, self.n2, self.n3 = nn.RMSNorm(d_model), nn.RMSNorm(d_model), nn.RMSNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 3 * d_model), nn.SiLU(), nn.Linear(3 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.n1(x)
        causal = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        a = self.attn(h, h, h, attn_mask=causal, need_weights=False)[0]
        m = self.memory(self.n2(x + a))
        g = 0.5 + 0.5 * torch.tanh(0.5 * self.mix(h))  # a logistic gate
        x = x + a * g + m * (1 - g)
        return x + self.ffn(self.n3(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.RMSNorm(d_model)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed.weight.T
