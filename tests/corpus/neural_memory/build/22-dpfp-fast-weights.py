"""Fast weight programmer (Schlag et al. 2021) with DPFP keys, plus surprise, fading and a blend with softmax attention."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def dpfp(x, nu=2):
    x = torch.cat([F.relu(x), F.relu(-x)], dim=-1)
    rolled = torch.cat([x.roll(shifts=j, dims=-1) for j in range(1, nu + 1)], dim=-1)
    y = torch.cat([x] * nu, dim=-1) * rolled
    return y / (y.sum(-1, keepdim=True) + 1e-6)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=16, d_val=48):
        super().__init__()
        self.slow = nn.Linear(d_model, 2 * d_key + d_val, bias=False)
        self.sizes = [d_key, d_key, d_val]
        self.d_feat = 4 * d_key
        self.beta_v, self.beta_r = nn.Linear(d_val, 8), nn.Linear(d_val, 8)
        self.beta_out = nn.Linear(8, 1)
        self.fade = nn.Parameter(torch.full((d_val,), 2.94))
        self.out = nn.Linear(d_val, d_model, bias=False)

    def fast_step(self, W, k, v):
        v_old = torch.einsum("bvk,bk->bv", W, k)
        beta = torch.sigmoid(self.beta_out(self.beta_v(v) * self.beta_r(v_old) + (v - v_old)[:, :8]))
        W = W * self.fade.sigmoid().unsqueeze(-1)
        return W + beta.unsqueeze(-1) * torch.einsum("bv,bk->bvk", v - v_old, k)

    def forward(self, x):
        q, k, v = self.slow(x).split(self.sizes, dim=-1)
        q, k = dpfp(q), dpfp(k)
        W = torch.zeros(x.shape[0], self.sizes[2], self.d_feat, device=x.device)
        y = torch.zeros(*x.shape[:2], self.sizes[2], device=x.device).unbind(1)
        y = list(y)
        for t in range(len(y)):
            W = self.fast_step(W, k[:, t], v[:, t])
            y[t] = torch.einsum("bvk,bk->bv", W, q[:, t])
        return self.out(torch.stack(y, 1))


class Layer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.softmax_attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.fast_weights = NeuralMemory(d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        L = x.size(1)
        causal = torch.ones(L, L, dtype=torch.bool, device=x.device).tril().logical_not()
        h = self.norm1(x)
        near = self.softmax_attn(h, h, h, attn_mask=causal, need_weights=False)[0]
        far = self.fast_weights(h)
        g = torch.sigmoid(self.mix(h))
        x = x + near.mul(g) + far.mul(g.neg().add(1))
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.word, self.place = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.word(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
