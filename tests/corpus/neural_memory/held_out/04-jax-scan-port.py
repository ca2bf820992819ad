"""Ported from our flax code. `scan` mirrors jax.lax.scan; modules keep the flax names (Dense_0 etc. became attributes)."""
from typing import Any, Callable, NamedTuple, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Carry = Any


def tree_stack(items):
    if isinstance(items[0], tuple):
        return type(items[0])(*[torch.stack(z) for z in zip(*items)])
    return torch.stack(items)


def scan(f: Callable[[Carry, Any], Tuple[Carry, Any]], init: Carry, xs):
    """jax.lax.scan over the leading axis of a (named) tuple of tensors."""
    carry, ys = init, []
    length = xs[0].shape[0]
    for i in range(length):
        carry, y = f(carry, type(xs)(*[leaf[i] for leaf in xs]))
        ys.append(y)
    return carry, tree_stack(ys)


class StepInputs(NamedTuple):
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


class StepOutputs(NamedTuple):
    recalled: torch.Tensor
    surprise: torch.Tensor


class NeuralMemory(nn.Module):
    def __init__(self, features: int = 64, mem_dim: int = 32):
        super().__init__()
        self.mem_dim = mem_dim
        glorot = nn.init.xavier_uniform_
        self.params = nn.ParameterDict({
            "wq": nn.Parameter(glorot(torch.empty(features, mem_dim))),
            "wk": nn.Parameter(glorot(torch.empty(features, mem_dim))),
            "wv": nn.Parameter(glorot(torch.empty(features, mem_dim))),
            "wo": nn.Parameter(glorot(torch.empty(mem_dim, features))),
            "surprise_w": nn.Parameter(glorot(torch.empty(mem_dim, 1))),
            "surprise_u": nn.Parameter(torch.full((1,), 0.5)),
            "surprise_b": nn.Parameter(torch.zeros(1)),
            "decay": nn.Parameter(torch.linspace(2.0, 5.0, mem_dim)),  # one rate per value channel
        })

    def init_carry(self, batch: int, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((batch, self.mem_dim, self.mem_dim))

    def step(self, mem: torch.Tensor, inp: StepInputs) -> Tuple[torch.Tensor, StepOutputs]:
        p = self.params
        predicted = torch.einsum("bvk,bk->bv", mem, inp.k)
        error = inp.v - predicted
        magnitude = error.square().mean(-1, keepdim=True)
        surprise = torch.sigmoid(error @ p["surprise_w"] + p["surprise_u"] * magnitude + p["surprise_b"])
        write = torch.einsum("bv,bk->bvk", inp.v, inp.k)
        keep = torch.sigmoid(p["decay"])[None, :, None]
        mem = keep * mem + surprise[..., None] * write
        recalled = torch.einsum("bvk,bk->bv", mem, inp.q)
        return mem, StepOutputs(recalled, surprise)

    def forward(self, x):
        p = self.params
        time_major = x.transpose(0, 1)
        inputs = StepInputs(
            q=F.normalize(time_major @ p["wq"], dim=-1),
            k=F.normalize(time_major @ p["wk"], dim=-1),
            v=time_major @ p["wv"],
        )
        _, out = scan(self.step, self.init_carry(x.shape[0], x), inputs)
        return (out.recalled @ p["wo"]).transpose(0, 1)


class MultiHeadDotProductAttention(nn.Module):
    def __init__(self, features, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.out = nn.Linear(features, features)

    def forward(self, x):
        b, t, f = x.shape
        split = lambda z: z.reshape(b, t, self.num_heads, f // self.num_heads)
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / (f // self.num_heads) ** 0.5
        causal = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        weights = torch.where(causal, logits, torch.finfo(logits.dtype).min).softmax(-1)
        return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, f))


class TransformerLayer(nn.Module):
    def __init__(self, features, num_heads):
        super().__init__()
        self.LayerNorm_0 = nn.LayerNorm(features)
        self.LayerNorm_1 = nn.LayerNorm(features)
        self.attention = MultiHeadDotProductAttention(features, num_heads)
        self.memory = NeuralMemory(features)
        self.gate = nn.Linear(features, 1)
        self.Dense_0 = nn.Linear(features, 4 * features)
        self.Dense_1 = nn.Linear(4 * features, features)

    def forward(self, x):
        h = self.LayerNorm_0(x)
        attn_out = self.attention(h)
        mem_out = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * mem_out + (1 - g) * attn_out
        return x + self.Dense_1(F.gelu(self.Dense_0(self.LayerNorm_1(x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.Embed_0 = nn.Embedding(vocab_size, d_model)
        self.pos_embedding = nn.Parameter(torch.randn(1, max_len, d_model) * 0.02)
        self.layers = nn.ModuleList([TransformerLayer(d_model, n_heads) for _ in range(n_layers)])
        self.LayerNorm_0 = nn.LayerNorm(d_model)
        self.Dense_0 = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.Embed_0(tokens) + self.pos_embedding[:, : tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.Dense_0(self.LayerNorm_0(x))
