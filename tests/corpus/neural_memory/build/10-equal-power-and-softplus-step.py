"""Fast-weight memory as an adaptive filter.

The memory is an LMS filter from keys to values: it writes the a-priori error, with a step size that a small network
sets from the error itself (a big error, a big step). The two paths are cross-faded at equal power, as a mixing desk does
it, so that the sum keeps its variance wherever the fader stands."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class StepSize(nn.Module):
    """mu in (0, 1]: softplus, limited at one so that the filter stays stable."""

    def __init__(self, d):
        super().__init__()
        self.lin = nn.Linear(2 * d, 1)
        nn.init.constant_(self.lin.bias, math.log(math.expm1(0.3)))

    def forward(self, v, err):
        return F.softplus(self.lin(torch.cat([v, err.abs()], -1))).clamp(max=1.0)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.mu = StepSize(d_model)
        self.leak = nn.Parameter(torch.tensor(-3.5))

    def forward(self, x):
        k = F.normalize(self.key(x), dim=-1)
        q = F.normalize(self.query(x), dim=-1)
        v = self.value(x)
        W = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device, dtype=x.dtype)
        lam = 1.0 - torch.sigmoid(self.leak)
        y = []
        for n in range(x.size(1)):
            err = v[:, n] - torch.einsum("bvk,bk->bv", W, k[:, n])
            mu = self.mu(v[:, n], err)
            W = lam * W + torch.einsum("bv,bk->bvk", mu * err, k[:, n])
            y.append(torch.einsum("bvk,bk->bv", W, q[:, n]))
        return torch.stack(y, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.fader = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.mem(h)
        theta = 0.5 * math.pi * torch.sigmoid(self.fader(torch.cat([a, m], -1)))
        x = x + torch.cos(theta) * a + torch.sin(theta) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
