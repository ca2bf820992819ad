"""Mamba-2 flavoured: a step width dt from the input sets how far the state fades; surprise sets how much comes in."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, expand=1, d_state=16, headdim=16):
        super().__init__()
        d_inner = expand * d_model
        self.nheads, self.headdim, self.d_state = d_inner // headdim, headdim, d_state
        self.in_proj = nn.Linear(d_model, 2 * d_inner + 2 * d_state + self.nheads, bias=False)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, self.nheads + 1).float()))
        self.dt_bias = nn.Parameter(torch.full((self.nheads,), -3.0))
        self.surprise_v = nn.Parameter(torch.randn(self.nheads, headdim) / headdim ** 0.5)
        self.surprise_r = nn.Parameter(torch.randn(self.nheads, headdim) / headdim ** 0.5)
        self.surprise_b = nn.Parameter(torch.zeros(self.nheads))
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.norm = nn.RMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, u):
        batch, length, _ = u.shape
        d_inner = self.nheads * self.headdim
        z, x, B, C, dt = self.in_proj(u).split([d_inner, d_inner, self.d_state, self.d_state, self.nheads], dim=-1)
        x = F.silu(x).view(batch, length, self.nheads, self.headdim)           # values
        B, C = F.normalize(B, dim=-1), F.normalize(C, dim=-1)                  # keys and queries, shared by the heads
        dA = torch.exp(-F.softplus(dt + self.dt_bias) * self.A_log.exp())
        h = u.new_zeros(batch, self.nheads, self.headdim, self.d_state)
        y = []
        for t in range(length):
            recalled = torch.einsum("bhpn,bn->bhp", h, B[:, t])
            logit = (x[:, t] * self.surprise_v).sum(-1) - (recalled * self.surprise_r).sum(-1) + self.surprise_b
            s = torch.sigmoid(logit)
            h = dA[:, t, :, None, None] * h + torch.einsum("bh,bhp,bn->bhpn", s, x[:, t], B[:, t])
            y.append(torch.einsum("bhpn,bn->bhp", h, C[:, t]) + self.D[:, None] * x[:, t])
        y = torch.stack(y, dim=1).flatten(2)
        return self.out_proj(self.norm(y * F.silu(z)))


class ParallelBlock(nn.Module):
    """Attention, memory and MLP read the same normalised input."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm = nn.RMSNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True, bias=False)
        self.mixer = NeuralMemory(d_model)
        self.route = nn.Linear(d_model, n_heads, bias=True)
        self.w_in, self.w_out = nn.Linear(d_model, 4 * d_model, bias=False), nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x, mask):
        u = self.norm(x)
        a, _ = self.attn(u, u, u, attn_mask=mask, need_weights=False)
        m = self.mixer(u)
        g = torch.sigmoid(self.route(u)).mean(-1, keepdim=True)
        return x + torch.lerp(a, m, g) + self.w_out(F.gelu(self.w_in(u)))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=3, max_len=512):
        super().__init__()
        self.embed, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([ParallelBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm_f = nn.RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        n = tokens.size(1)
        mask = torch.triu(torch.full((n, n), float("-inf"), device=tokens.device), diagonal=1)
        x = self.embed(tokens) + self.pos(torch.arange(n, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.lm_head(self.norm_f(x))
