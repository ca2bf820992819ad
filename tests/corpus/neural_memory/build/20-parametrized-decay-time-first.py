"""Time-first layout. The retention is a parametrized parameter: what is stored is its logit, what is read lies in (0, 1)."""
import torch
from torch import nn
from torch.nn.utils import parametrize


class Unit(nn.Module):
    def forward(self, raw):
        return torch.special.expit(raw)

    def right_inverse(self, p):
        return torch.special.logit(p)


class NeuralMemory(nn.Module):
    def __init__(self, features: int, heads: int = 8):
        super().__init__()
        self.heads, self.size = heads, features // heads
        self.inputs = nn.Linear(features, 3 * features, bias=False)
        self.familiar = nn.Linear(3 * self.size, self.size)
        self.retention = nn.Parameter(torch.full((heads, 1, self.size), 0.92))
        parametrize.register_parametrization(self, "retention", Unit())
        self.output = nn.Linear(features, features)

    def forward(self, stream):                               # T, B, F
        T, B, F = stream.shape
        q, k, v = self.inputs(stream).view(T, B, self.heads, 3 * self.size).tensor_split(3, dim=-1)
        k = k / k.norm(dim=-1, keepdim=True).clamp_min(1e-5)
        trace = stream.new_zeros(B, self.heads, self.size, self.size)
        heard = stream.new_zeros(T, B, self.heads, self.size).unbind()
        heard = list(heard)
        with parametrize.cached():
            for t in range(T):
                recall = (trace * k[t].unsqueeze(-2)).sum(-1)
                z = self.familiar(torch.cat([v[t], recall, v[t] * recall], dim=-1))
                surprise = torch.special.expit(z)
                trace = trace * self.retention + torch.multiply(surprise, v[t]).unsqueeze(-1) * k[t].unsqueeze(-2)
                heard[t] = (trace * q[t].unsqueeze(-2)).sum(-1)
        return self.output(torch.stack(heard).flatten(-2))


class Stage(nn.Module):
    def __init__(self, features, heads):
        super().__init__()
        self.norm = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))
        self.attention = nn.MultiheadAttention(features, heads)
        self.memory = NeuralMemory(features)
        self.weigh = nn.Linear(features, features)
        self.feed = nn.Sequential(nn.Linear(features, 2 * features), nn.ELU(), nn.Linear(2 * features, features))

    def forward(self, x):
        h = self.norm[0](x)
        block = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
        a = self.attention(h, h, h, attn_mask=block, need_weights=False)[0]
        w = torch.special.expit(self.weigh(a))
        x = x + torch.addcmul((1 - w) * self.memory(h), w, a)
        return x + self.feed(self.norm[1](x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, longest=300):
        super().__init__()
        self.lookup, self.order = nn.Embedding(vocab_size, d_model), nn.Embedding(longest, d_model)
        self.stages = nn.ModuleList(Stage(d_model, n_heads) for _ in range(n_layers))
        self.classify = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.lookup(tokens.t()) + self.order.weight[: tokens.size(1), None]
        for stage in self.stages:
            x = stage(x)
        return self.classify(x).transpose(0, 1)
