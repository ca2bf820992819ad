"""Neural memory in the functional manner: pure step functions, a `scan` over pytrees, modules only as parameter holders."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

PyTree = Any


def scan(f: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], init: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """jax.lax.scan without the compiler; the leading axis of every leaf is time."""
    leaves, spec = pytree.tree_flatten(xs)
    carry, ys = init, []
    for slices in zip(*(leaf.unbind(0) for leaf in leaves), strict=True):
        carry, y = f(carry, pytree.tree_unflatten(list(slices), spec))
        ys.append(y)
    return carry, pytree.tree_map(lambda *t: torch.stack(t), *ys)


class Inputs(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor


class Carry(NamedTuple):
    assoc: Tensor  # [B, value, key]


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_key: int = 32) -> None:
        super().__init__()
        self.d_key = d_key
        self.inp = nn.Linear(d_model, 2 * d_key + d_model)
        self.compare = nn.ModuleDict({
            "actual": nn.Linear(d_model, d_key),
            "expected": nn.Linear(d_model, d_key, bias=False),
            "readout": nn.Linear(d_key, 1),
        })
        self.half_life = nn.Parameter(torch.logspace(0.5, 2.5, d_key))  # in tokens, one for each key column
        self.out = nn.Linear(d_model, d_model)

    def retention(self) -> Tensor:
        return torch.exp2(-self.half_life.abs().clamp_min(1e-2).reciprocal())

    def surprise(self, value: Tensor, expected: Tensor) -> Tensor:
        c = self.compare
        return c["readout"](F.silu(c["actual"](value) - c["expected"](expected))).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inp(x).movedim(1, 0).split([self.d_key, self.d_key, x.size(-1)], dim=-1)
        xs = Inputs(F.softmax(q, -1), F.softmax(k, -1), v)
        keep = self.retention()

        def step(carry: Carry, i: Inputs) -> tuple[Carry, Tensor]:
            expected = torch.einsum("bvk,bk->bv", carry.assoc, i.key)
            written = torch.einsum("b,bv,bk->bvk", self.surprise(i.value, expected).squeeze(-1), i.value, i.key)
            new = Carry(carry.assoc * keep + written)
            return new, torch.einsum("bvk,bk->bv", new.assoc, i.query)

        _, ys = scan(step, Carry(x.new_zeros(x.size(0), x.size(-1), self.d_key)), xs)
        return self.out(ys.movedim(0, 1))


def blend(gate: Tensor, attended: PyTree, remembered: PyTree) -> PyTree:
    return pytree.tree_map(lambda a, m: gate * a + (1.0 - gate) * m, attended, remembered)


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1), device=x.device, dtype=x.dtype)
        a = self.attn(h, h, h, attn_mask=mask, is_causal=True, need_weights=False)[0]
        m = self.memory(h)
        x = x + blend(self.gate(torch.cat([a, m], -1)).sigmoid(), a, m)
        return x + self.mlp(self.norms[1](x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2,
                 max_len: int = 512) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens) + self.pos.weight[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


if __name__ == "__main__":
    net = MemoryTransformer()
    print(net(torch.randint(0, 256, (2, 16))).shape)
