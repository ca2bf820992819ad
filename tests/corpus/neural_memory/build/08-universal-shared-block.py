"""Universal-transformer style: one block, applied n_layers times, with a depth embedding. The memory weights are shared
across depth; each depth has its own state."""
import torch
from torch import nn
from torch.nn import functional as F


class SwiGLU(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.w12, self.w3 = nn.Linear(d, 2 * hidden, bias=False), nn.Linear(hidden, d, bias=False)

    def forward(self, x):
        a, b = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(a) * b)


class GroupedAttention(nn.Module):
    """Grouped-query attention with ALiBi slopes."""

    def __init__(self, d, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.hd = heads, kv_heads, d // heads
        self.q = nn.Linear(d, d, bias=False)
        self.kv = nn.Linear(d, 2 * kv_heads * self.hd, bias=False)
        self.o = nn.Linear(d, d, bias=False)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, heads + 1).float(), persistent=False)

    def forward(self, x):
        B, T, D = x.shape
        q = self.q(x).view(B, T, self.heads, self.hd).transpose(1, 2)
        k, v = self.kv(x).view(B, T, 2 * self.kv_heads, self.hd).transpose(1, 2).chunk(2, dim=1)
        pos = torch.arange(T, device=x.device)
        dist = (pos[None, :] - pos[:, None]).float()
        bias = (self.slopes[:, None, None] * dist).masked_fill(dist > 0, float("-inf"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(B, T, D))


class NeuralMemory(nn.Module):
    def __init__(self, d, d_key=16, d_val=48):
        super().__init__()
        self.d_key, self.d_val = d_key, d_val
        self.w_in = nn.Linear(d, 2 * d_key + d_val, bias=False)
        self.gain = nn.Parameter(torch.ones(d_val))
        self.threshold = nn.Parameter(torch.zeros(()))
        self.half_life = nn.Parameter(torch.tensor(3.0))
        self.w_out = nn.Linear(d_val, d, bias=False)

    def forward(self, x):
        k, q, v = self.w_in(x).split([self.d_key, self.d_key, self.d_val], dim=-1)
        k = F.normalize(k, dim=-1)
        decay = 0.5 ** (1.0 / (1.0 + F.softplus(self.half_life)))
        S = torch.zeros(x.shape[0], self.d_key, self.d_val, device=x.device, dtype=x.dtype)
        ys = []
        for t in range(x.shape[1]):
            kt, vt = k[:, t], v[:, t]
            err = F.smooth_l1_loss(torch.einsum("bkv,bk->bv", S, kt), vt, reduction="none")
            s = torch.sigmoid((self.gain * err).sum(-1) - self.threshold)
            S = decay * S + torch.einsum("b,bk,bv->bkv", s, kt, vt)
            ys.append(torch.einsum("bkv,bk->bv", S, q[:, t]))
        return self.w_out(torch.stack(ys, 1))


class SharedBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.attn = GroupedAttention(d, heads, max(1, heads // 2))
        self.mem = NeuralMemory(d)
        self.router = nn.Linear(d, 1)
        self.ffn = SwiGLU(d, 2 * d)

    def forward(self, x):
        h = self.n1(x)
        x = x + self.attn(h)
        m = self.mem(h)
        p = torch.sigmoid(self.router(x))
        x = p * x + (1 - p) * m
        return x + self.ffn(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=3):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.depth = nn.Embedding(n_layers, d_model)
        self.block = SharedBlock(d_model, n_heads)
        self.norm = nn.RMSNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.emb(tokens)
        for depth in self.depth.weight:
            x = self.block(x + depth)
        return self.head(self.norm(x))
