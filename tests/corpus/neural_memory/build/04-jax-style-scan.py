"""JAX habits in PyTorch: parameters in small trees, a pure cell function and a lax.scan look-alike."""
import math
from collections import namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Proj = namedtuple("Proj", "q k v")


def scan(f, init, xs):
    """f(carry, x) -> (carry, y), over the leading axis of every leaf of xs."""
    carry, ys = init, []
    for i in range(xs[0].shape[0]):
        carry, y = f(carry, tuple(leaf[i] for leaf in xs))
        ys.append(y)
    return carry, torch.stack(ys)


def lecun(*shape):
    return nn.Parameter(torch.randn(*shape) / math.sqrt(shape[0]))


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.w = nn.ParameterDict({n: lecun(d_model, d_mem) for n in Proj._fields})
        self.cmp = nn.ParameterDict({"w1": lecun(d_mem, 16), "b1": nn.Parameter(torch.zeros(16)), "w2": lecun(16, 1),
                                     "b2": nn.Parameter(torch.zeros(1))})
        self.w["o"] = lecun(d_mem, d_model)
        self.logit_rho = nn.Parameter(torch.linspace(1.0, 4.0, d_mem))

    def cell(self, M, inp):
        q, k, v = inp
        guess = torch.einsum("bvk,bk->bv", M, k)
        h = F.silu((v - guess) @ self.cmp["w1"] + self.cmp["b1"])
        s = torch.sigmoid(h @ self.cmp["w2"] + self.cmp["b2"])
        M = M * torch.sigmoid(self.logit_rho) + torch.einsum("bv,bk->bvk", s * v, k)
        return M, torch.einsum("bvk,bk->bv", M, q)

    def forward(self, x):
        xs = x.transpose(0, 1)
        p = Proj(*(xs @ self.w[n] for n in Proj._fields))
        p = p._replace(k=F.normalize(p.k, dim=-1))
        M0 = x.new_zeros(x.shape[0], self.d_mem, self.d_mem)
        _, ys = scan(self.cell, M0, p)
        return (ys @ self.w["o"]).transpose(0, 1)


class Layer(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.wqkv, self.wo = lecun(d, 3, d), lecun(d, d)
        self.mem = NeuralMemory(d)
        self.wg, self.bg = lecun(d, d), nn.Parameter(torch.zeros(d))
        self.up, self.down = lecun(d, 4 * d), lecun(4 * d, d)

    def attend(self, x):
        q, k, v = (t.unflatten(-1, (self.h, -1)).transpose(1, 2) for t in torch.einsum("btd,dne->nbte", x, self.wqkv))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2) @ self.wo

    def forward(self, x):
        y = self.n1(x)
        g = torch.sigmoid(y @ self.wg + self.bg)
        x = x + g * self.attend(y) + (1.0 - g) * self.mem(y)
        return x + F.gelu(self.n2(x) @ self.up) @ self.down


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens):
        x = self.emb(tokens) + self.pos[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.emb.weight.T / math.sqrt(x.shape[-1])
