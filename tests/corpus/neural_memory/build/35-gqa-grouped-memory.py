import torch
from torch import nn
import torch.nn.functional as F

# 4 query heads, 2 key/value heads, for attention and for the memory alike: two queries read the same matrix.


def rope(x, base=10000.0):
    t, d = x.shape[-2:]
    freq = base ** (-torch.arange(0, d, 2, device=x.device) / d)
    ang = torch.arange(t, device=x.device)[:, None] * freq
    x1, x2 = x[..., ::2], x[..., 1::2]
    return torch.stack((x1 * ang.cos() - x2 * ang.sin(), x1 * ang.sin() + x2 * ang.cos()), -1).flatten(-2)


class GQA(nn.Module):
    def __init__(self, d, hq, hkv):
        super().__init__()
        self.hq, self.hkv, self.dh = hq, hkv, d // hq
        self.wq, self.wk, self.wv = (nn.Linear(d, n * self.dh, bias=False) for n in (hq, hkv, hkv))
        self.wo = nn.Linear(d, d, bias=False)

    def project(self, x):
        f = lambda w, n: w(x).unflatten(-1, (n, self.dh)).transpose(1, 2)
        return f(self.wq, self.hq), f(self.wk, self.hkv), f(self.wv, self.hkv)


class Attention(GQA):
    def forward(self, x):
        q, k, v = self.project(x)
        y = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True, enable_gqa=True)
        return self.wo(y.transpose(1, 2).flatten(2))


class NeuralMemory(GQA):
    """Inherits the projections only (GQA is an nn.Module)."""

    def __init__(self, d=64, hq=4, hkv=2):
        super().__init__(d, hq, hkv)
        self.w_seen = nn.Parameter(torch.randn(hkv, self.dh, self.dh) * self.dh ** -0.5)
        self.w_known = nn.Parameter(torch.randn(hkv, self.dh, self.dh) * self.dh ** -0.5)
        self.b_gate = nn.Parameter(torch.zeros(hkv, self.dh))
        self.decay = nn.Parameter(torch.tensor([2.0, 4.0])[:hkv].clone())

    def forward(self, x):
        q, k, v = self.project(x)
        k, g = F.normalize(k, dim=-1), self.hq // self.hkv
        q = q.unflatten(1, (self.hkv, g))                                   # [B, kv, group, T, dh]
        M = x.new_zeros(x.shape[0], self.hkv, self.dh, self.dh)
        rho = self.decay.sigmoid().view(-1, 1, 1)
        ys = []
        for t in range(x.shape[1]):
            kt, vt = k[:, :, t], v[:, :, t]
            known = torch.einsum("bnij,bnj->bni", M, kt)
            s = (torch.einsum("bni,nij->bnj", vt, self.w_seen) - torch.einsum("bni,nij->bnj", known, self.w_known)
                 + self.b_gate).sigmoid()
            M = rho * M + torch.einsum("bni,bnj->bnij", s * (vt - known), kt)
            ys.append(torch.einsum("bnij,bngj->bngi", M, q[:, :, :, t]))
        return self.wo(torch.stack(ys, 1).flatten(2))


class Layer(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.attn, self.mem = Attention(d, h, max(1, h // 2)), NeuralMemory(d, h, max(1, h // 2))
        self.g = nn.Linear(d, h)
        self.w1, self.w2, self.w3 = nn.Linear(d, 2 * d), nn.Linear(2 * d, d), nn.Linear(d, 2 * d)

    def forward(self, x):
        u = self.n1(x)
        g = self.g(u).sigmoid().repeat_interleave(x.shape[-1] // self.g.out_features, -1)
        x = x + torch.lerp(self.attn(u), self.mem(u), g)
        u = self.n2(x)
        return x + self.w2(F.silu(self.w1(u)) * self.w3(u))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.layers = nn.Sequential(*(Layer(d_model, n_heads) for _ in range(n_layers)))
        self.norm = nn.RMSNorm(d_model)

    def forward(self, tokens):
        return F.linear(self.norm(self.layers(self.emb(tokens))), self.emb.weight) / 8
