"""Everything is built from one nested dict through a registry (the way our internal framework does it)."""
import copy

import torch
import torch.nn as nn

REGISTRY = {}


def register(name):
    def wrap(cls):
        REGISTRY[name] = cls
        return cls
    return wrap


def build(cfg, **extra):
    cfg = {**copy.deepcopy(cfg), **extra}
    return REGISTRY[cfg.pop("type")](**cfg)


DEFAULTS = {
    "mixer": {
        "type": "blend",
        "attention": {"type": "mha", "dropout": 0.0},
        "memory": {"type": "neural_memory", "slots": 32, "comparator": {"type": "mlp", "hidden": 16}},
    },
    "ffn": {"type": "mlp", "hidden": 256},
}


@register("mlp")
class MLP(nn.Sequential):
    def __init__(self, d_in, d_out, hidden):
        super().__init__(nn.Linear(d_in, hidden), nn.Mish(), nn.Linear(hidden, d_out))


@register("mha")
class SelfAttention(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.core = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)

    def forward(self, x):
        causal = torch.full((x.size(1), x.size(1)), True, device=x.device).triu(1)
        return self.core(x, x, x, attn_mask=causal, need_weights=False)[0]


@register("neural_memory")
class NeuralMemory(nn.Module):
    def __init__(self, dim, slots, comparator, heads=None):
        super().__init__()
        self.slots = slots
        self.proj = nn.ModuleDict({n: nn.Linear(dim, slots, bias=False) for n in ("key", "value", "query")})
        self.comparator = build(comparator, d_in=3 * slots, d_out=1)
        self.retention = nn.ParameterDict({"logit": nn.Parameter(torch.tensor(2.5))})
        self.readout = nn.Linear(slots, dim)

    def surprise(self, value, recalled):
        return self.comparator(torch.cat([value, recalled, (value - recalled).abs()], dim=-1)).sigmoid()

    def forward(self, x):
        key = torch.nn.functional.normalize(self.proj["key"](x), dim=-1)
        value, query = self.proj["value"](x), self.proj["query"](x)
        state = x.new_zeros(x.size(0), self.slots, self.slots)
        retention = torch.special.expit(self.retention["logit"])
        recalls = []
        for t, (k, v, q) in enumerate(zip(key.unbind(1), value.unbind(1), query.unbind(1))):
            recalled = torch.einsum("nvk,nk->nv", state, k)
            write = torch.einsum("ns,nv,nk->nvk", self.surprise(v, recalled), v - recalled, k)
            state = retention * state + write
            recalls.append(torch.einsum("nvk,nk->nv", state, q))
        return self.readout(torch.stack(recalls, dim=1))


@register("blend")
class Blend(nn.Module):
    def __init__(self, dim, heads, attention, memory):
        super().__init__()
        self.branches = nn.ModuleDict({"attention": build(attention, dim=dim, heads=heads), "memory": build(memory, dim=dim)})
        self.gate = nn.Linear(dim, dim)

    def forward(self, x):
        outs = {name: branch(x) for name, branch in self.branches.items()}
        g = self.gate(x).sigmoid()
        weights = {"attention": g, "memory": 1.0 - g}
        return sum(weights[name] * out for name, out in outs.items())


class PreNormResidual(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(dim), inner

    def forward(self, x):
        return x + self.inner(self.norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, cfg=None):
        super().__init__()
        cfg = {**DEFAULTS, **(cfg or {})}
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        stack = []
        for _ in range(n_layers):
            stack.append(PreNormResidual(d_model, build(cfg["mixer"], dim=d_model, heads=n_heads)))
            stack.append(PreNormResidual(d_model, build(cfg["ffn"], d_in=d_model, d_out=d_model)))
        self.stack = nn.Sequential(*stack, nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        where = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
        return self.stack(self.tokens(tokens) + self.positions(where))
