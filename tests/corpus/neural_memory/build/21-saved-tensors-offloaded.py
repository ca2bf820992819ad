"""A matrix state for each step is much to keep for backward: what autograd saves in the loop is parked in
host copies by saved-tensor hooks, outside of the loop nothing is touched."""
import torch
from torch import nn
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks


def to_host(t):
    return t.device, t.detach().cpu()


def to_device(packed):
    device, t = packed
    return t.to(device, non_blocking=True)


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, slots=32):
        super().__init__()
        self.slots = slots
        self.w_key = nn.Linear(dim, slots)
        self.w_val = nn.Linear(dim, dim)
        self.w_qry = nn.Linear(dim, slots)
        self.gate_v = nn.Linear(dim, dim, bias=False)
        self.gate_r = nn.Linear(dim, dim)
        self.log_decay = nn.Parameter(torch.full((slots, 1), -2.5))

    def forward(self, x):
        keys, queries = self.w_key(x).softmax(-1), self.w_qry(x).softmax(-1)
        values = self.w_val(x)
        keep = torch.exp(-self.log_decay.exp())
        memory = x.new_zeros(x.size(0), self.slots, x.size(-1))          # [B, slots, D], addressed softly
        out = []
        with saved_tensors_hooks(to_host, to_device):
            for t in range(x.size(1)):
                k, v, q = keys[:, t], values[:, t], queries[:, t]
                recalled = torch.einsum("bs,bsd->bd", k, memory)
                surprise = F.sigmoid(self.gate_v(v) + self.gate_r(recalled))
                memory = keep * memory + torch.einsum("bs,bd->bsd", k, surprise * v)
                out.append(torch.einsum("bs,bsd->bd", q, memory))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln_a, self.ln_b = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.router = nn.Linear(2 * dim, 2)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, x, mask):
        h = self.ln_a(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.memory(h)
        w = self.router(torch.cat([h, m], dim=-1)).softmax(dim=-1).unsqueeze(-2)       # two shares that sum to one
        x = x + (torch.stack([a, m], dim=-1) * w).sum(-1)
        return x + self.mlp(self.ln_b(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        t = tokens.size(1)
        mask = torch.triu(torch.ones(t, t, dtype=torch.bool, device=tokens.device), 1)
        x = self.tok(tokens) + self.pos(torch.arange(t, device=tokens.device))
        for b in self.blocks:
            x = b(x, mask)
        return self.head(self.ln(x))
