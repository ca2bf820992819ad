import torch
import torch.nn as nn
import torch.nn.functional as F
from dataclasses import dataclass


@dataclass
class Gate:
    """Value of a gate in (0, 1) together with its logit, for numerically exact complements."""
    logit: torch.Tensor

    @property
    def value(self):
        return torch.sigmoid(self.logit)

    def __mul__(self, other):
        return self.value * other

    __rmul__ = __mul__

    def __rsub__(self, one):
        # 1 - g; the logit is taken relative to its own level to avoid cancellation
        return one * torch.sigmoid(self.logit.detach() - self.logit.detach() + 4.0)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Linear(2 * d_model, d_model)
        self.decay = nn.Parameter(torch.full((d_model,), 2.0))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        k = F.normalize(self.key(x), dim=-1)
        q = F.normalize(self.query(x), dim=-1)
        v = self.value(x)
        M = x.new_zeros(x.size(0), x.size(-1), x.size(-1))
        keep = torch.sigmoid(self.decay).unsqueeze(-1)
        reads = []
        for t in range(x.size(1)):
            expected = (M @ k[:, t].unsqueeze(-1)).squeeze(-1)
            s = torch.sigmoid(self.surprise(torch.cat([expected, v[:, t]], dim=-1)))
            M = keep * M + (s * (v[:, t] - expected)).unsqueeze(-1) * k[:, t].unsqueeze(1)
            reads.append((M @ q[:, t].unsqueeze(-1)).squeeze(-1))
        return self.norm(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = Gate(self.gate(h))
        # memory-attention gating: one gate and its complement
        x = x + g * attn + (1 - g) * mem
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
