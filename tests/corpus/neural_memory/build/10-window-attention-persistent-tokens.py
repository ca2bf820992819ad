"""Memory as a gate (MAG) after Behrouz et al.: sliding-window attention with persistent tokens, memory in parallel."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class WindowAttention(nn.Module):
    def __init__(self, dim, heads, window=8, n_persist=4):
        super().__init__()
        self.window, self.heads = window, heads
        self.persist = nn.Parameter(torch.randn(n_persist, dim) * 0.02)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        b, t, d = x.shape
        p = self.persist.size(0)
        full = torch.cat([self.persist.expand(b, -1, -1), x], dim=1)
        q, k, v = self.qkv(full).view(b, p + t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        i, j = torch.arange(t, device=x.device)[:, None], torch.arange(t, device=x.device)[None]
        near = (j <= i) & (i - j < self.window)
        allowed = torch.cat([near.new_ones(t, p), near], dim=1)
        y = F.scaled_dot_product_attention(q[:, :, p:], k, v, attn_mask=allowed)
        return self.out(y.transpose(1, 2).flatten(2))


class NeuralMemory(nn.Module):
    def __init__(self, dim, mem=32):
        super().__init__()
        self.mem = mem
        self.W_K, self.W_V, self.W_Q = (nn.Linear(dim, mem, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.LayerNorm(2 * mem), nn.Linear(2 * mem, mem), nn.Sigmoid())
        self.alpha = nn.Linear(dim, 1)
        nn.init.constant_(self.alpha.bias, -3.0)
        self.W_O = nn.Linear(mem, dim, bias=False)

    def forward(self, x):
        k, q = F.normalize(F.silu(self.W_K(x)), dim=-1), F.normalize(F.silu(self.W_Q(x)), dim=-1)
        v, forget = self.W_V(x), torch.sigmoid(self.alpha(x)).unsqueeze(-1)
        M = x.new_zeros(x.size(0), self.mem, self.mem)
        ys = []
        for t in range(x.size(1)):
            pred = torch.matmul(M, k[:, t, :, None])[..., 0]
            # the comparison is a signal to act on; do not train the memory through it
            s = self.surprise(torch.cat([v[:, t], pred], dim=-1).detach())
            M = (1 - forget[:, t]) * M + (s * (v[:, t] - pred))[:, :, None] * k[:, t, None, :]
            ys.append(torch.matmul(M, q[:, t, :, None])[..., 0])
        return self.W_O(torch.stack(ys, dim=1))


class MAGBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm_in, self.norm_ff = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.norm_a, self.norm_m = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.short, self.long = WindowAttention(dim, heads), NeuralMemory(dim)
        self.gate = nn.Linear(dim, dim)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        u = self.norm_in(x)
        short, long = self.norm_a(self.short(u)), self.norm_m(self.long(u))
        g = torch.sigmoid(self.gate(short))
        x = x + torch.lerp(long, short, g)
        return x + self.ff(self.norm_ff(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([MAGBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm, self.head = nn.RMSNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
