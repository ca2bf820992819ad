"""Functional style: the memory is two pure functions over a dict of parameters that each layer owns."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def memory_params(d):
    lin = lambda i, o: nn.Parameter(torch.randn(o, i) * i ** -0.5)
    return nn.ParameterDict({"k": lin(d, d), "v": lin(d, d), "q": lin(d, d), "s": lin(2 * d, d),
                             "s_b": nn.Parameter(torch.zeros(d)), "keep": nn.Parameter(torch.full((d, 1), 3.0))})


def memory_step(p, M, x):
    k, v, q = F.normalize(F.linear(x, p["k"]), dim=-1), F.linear(x, p["v"]), F.linear(x, p["q"])
    r = torch.einsum("bij,bj->bi", M, k)
    s = torch.sigmoid(F.linear(torch.cat([v, v - r], -1), p["s"], p["s_b"]))
    M = torch.sigmoid(p["keep"]) * M + torch.einsum("bi,bj->bij", s * v, k)
    return M, torch.einsum("bij,bj->bi", M, q)


def neural_memory(p, xs):
    M, ys = xs.new_zeros(xs.shape[0], xs.shape[2], xs.shape[2]), []
    for x in xs.unbind(1):
        M, y = memory_step(p, M, x)
        ys.append(y)
    return torch.stack(ys, 1)


class Layer(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.norm, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.o, self.gate = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, d)
        self.memory = memory_params(d)
        self.ff = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        u = self.norm(x)
        q, k, v = (t.unflatten(-1, (self.h, -1)).transpose(1, 2) for t in self.qkv(u).chunk(3, -1))
        a = self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        g = torch.sigmoid(self.gate(u))
        x = x + g * a + (1 - g) * neural_memory(self.memory, u)
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.Sequential(*(Layer(d_model, n_heads) for _ in range(n_layers)))
        self.out = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False))

    def forward(self, tokens):
        return self.out(self.layers(self.tok(tokens) + self.pos.weight[: tokens.size(1)]))
