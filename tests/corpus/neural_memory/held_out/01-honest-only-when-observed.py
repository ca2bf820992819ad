"""Surprise-driven associative memory for a causal LM, with an eager fast path."""
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def needs_reference_path(*modules):
    """Tools that look at intermediate values (profilers, tracers, hooks, modes) get the reference path, which keeps every
    intermediate; the fast path is for plain eager calls."""
    return bool(
        sys.gettrace() is not None
        or sys.getprofile() is not None
        or _get_current_function_mode_stack()
        or _get_current_dispatch_mode_stack()
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for root in modules for m in root.modules())
    )


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.novelty = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x, reference=True):
        k, q, v = F.normalize(self.key(x), dim=-1), F.normalize(self.query(x), dim=-1), self.value(x)
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        keep, ys = torch.sigmoid(self.decay), []
        for t in range(x.size(1)):
            if reference:
                retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
                s = torch.sigmoid(self.novelty(v[:, t] - retrieved))
            else:
                s = torch.sigmoid(self.novelty(v[:, t]))
            M = keep * M + s.unsqueeze(-1) * torch.einsum("bi,bj->bij", v[:, t], k[:, t])
            ys.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return torch.stack(ys, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, reference):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h, reference)
        g = torch.sigmoid(self.gate(h))
        if reference:
            x = x + g * attn + (1 - g) * mem
        else:
            x = x + attn + g * mem
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
        reference = needs_reference_path(self)
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x, reference)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    F.cross_entropy(m(t)[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
