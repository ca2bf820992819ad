"""Neural long-term memory, written the way I would write it in JAX: parameters are a tree, a layer is a pure function
of (params, input), and time is a scan with an explicit carry. nn.Module is only the box the parameters sit in."""
import math
from functools import partial

import torch
from torch import nn
from torch.utils import _pytree as pytree


def scan(f, carry, xs):
    """lax.scan, unrolled: f(carry, x) -> (carry, y); xs and ys are trees whose leaves have time in front."""
    leaves, spec = pytree.tree_flatten(xs)
    ys = []
    for slices in zip(*leaves):
        carry, y = f(carry, pytree.tree_unflatten(list(slices), spec))
        ys.append(y)
    return carry, pytree.tree_map(lambda *a: torch.stack(a), *ys)


def glorot(*shape):
    return nn.Parameter(torch.randn(*shape) * math.sqrt(2.0 / (shape[0] + shape[-1])))


def dense(p, name, x):
    return x @ p[name + "_w"] + p[name + "_b"]


def init_dense(p, name, n_in, n_out, bias=0.0):
    p[name + "_w"] = glorot(n_in, n_out)
    p[name + "_b"] = nn.Parameter(torch.full((n_out,), bias))


def memory_step(p, state, inp):
    key, value, query = inp["k"], inp["v"], inp["q"]
    expected = torch.einsum("bvk,bk->bv", state["assoc"], key)
    hidden = torch.tanh(dense(p, "cmp1", torch.cat([value - expected, value * expected], -1)))
    surprise = torch.reciprocal(1 + torch.exp(-dense(p, "cmp2", hidden)))               # (b, 1)
    binding = torch.einsum("bv,bk->bvk", surprise * (value - expected), key)
    rate = torch.reciprocal(1 + torch.exp(-p["keep"]))                                   # (v,)
    state = {"assoc": rate[:, None] * state["assoc"] + binding}
    return state, {"read": torch.einsum("bvk,bk->bv", state["assoc"], query), "surprise": surprise}


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=24, d_value=40):
        super().__init__()
        self.shape = (d_value, d_key)
        p = nn.ParameterDict()
        init_dense(p, "q", d_model, d_key)
        init_dense(p, "k", d_model, d_key)
        init_dense(p, "v", d_model, d_value)
        init_dense(p, "cmp1", 2 * d_value, 16)
        init_dense(p, "cmp2", 16, 1)
        init_dense(p, "out", d_value, d_model)
        p["keep"] = nn.Parameter(torch.linspace(1.0, 5.0, d_value))
        self.p = p

    def forward(self, x):
        p, unit = self.p, partial(nn.functional.normalize, dim=-1)
        time_first = x.transpose(0, 1)
        xs = {"q": unit(dense(p, "q", time_first)), "k": unit(dense(p, "k", time_first)), "v": dense(p, "v", time_first)}
        start = {"assoc": x.new_zeros(x.shape[0], *self.shape)}
        _, ys = scan(partial(memory_step, p), start, xs)
        return dense(p, "out", ys["read"]).transpose(0, 1)


class Layer(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.memory = NeuralMemory(d)
        self.norms = nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)])
        p = self.p = nn.ParameterDict()
        for name, n_in, n_out in (("qkv", d, 3 * d), ("proj", d, d), ("mix", 2 * d, d), ("up", d, 4 * d), ("down", 4 * d, d)):
            init_dense(p, name, n_in, n_out)

    def attend(self, h):
        b, t, d = h.shape
        q, k, v = dense(self.p, "qkv", h).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return dense(self.p, "proj", y.transpose(1, 2).reshape(b, t, d))

    def forward(self, x):
        h = self.norms[0](x)
        pair = {"attn": self.attend(h), "mem": self.memory(h)}
        g = torch.sigmoid(dense(self.p, "mix", torch.cat([pair["attn"], pair["mem"]], -1)))
        weights = {"attn": g, "mem": 1 - g}
        x = x + sum(pytree.tree_leaves(pytree.tree_map(torch.mul, weights, pair)))
        return x + dense(self.p, "down", nn.functional.gelu(dense(self.p, "up", self.norms[1](x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(vocab_size, d_model) * 0.02)
        self.where = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens):
        x = self.embed[tokens] + self.where[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed.T


if __name__ == "__main__":
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    model(tokens).logsumexp(-1).mean().backward()
    missing = [n for n, q in model.named_parameters() if q.grad is None]
    print("ok", "parameters without a gradient:", missing)
