"""Associative memory with complex entries. The decay is a point inside the unit circle (as in the LRU): its modulus
fades a memory, its phase rotates it. Complex keys give every association an address and a time stamp at once."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def complex_linear(d_in, d_out):
    return nn.Linear(d_in, 2 * d_out, bias=False)


def as_complex(t):
    return torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous())


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_state=24):
        super().__init__()
        self.d_state = d_state
        self.q, self.k, self.v = (complex_linear(d_model, d_state) for _ in range(3))
        self.surprise = nn.Linear(3 * d_state, d_state)
        self.log_modulus = nn.Parameter(torch.empty(d_state).uniform_(2.0, 4.5))
        self.phase = nn.Parameter(torch.empty(d_state).uniform_(-0.3, 0.3))
        self.out = nn.Linear(2 * d_state, d_model)

    def forward(self, x):
        q, k, v = as_complex(self.q(x)), as_complex(self.k(x)), as_complex(self.v(x))
        k = k / torch.linalg.vector_norm(k, dim=-1, keepdim=True).clamp_min(1e-6)
        lam = torch.polar(torch.sigmoid(self.log_modulus), self.phase)             # [n]
        M = torch.zeros(x.size(0), self.d_state, self.d_state, dtype=v.dtype, device=x.device)
        reads = []
        for t in range(x.size(1)):
            kt, vt = k[:, t], v[:, t]
            pred = torch.einsum("bij,bj->bi", M, kt)
            err = vt - pred
            s = torch.sigmoid(self.surprise(torch.cat([err.real, err.imag, err.abs()], dim=-1)))
            M = M * lam[:, None] + torch.einsum("bi,bj->bij", s * vt, kt.conj())
            reads.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.out(torch.view_as_real(torch.stack(reads, dim=1)).flatten(-2))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = F.sigmoid(self.gate(h))
        x = x + (m + g * (a - m))
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
