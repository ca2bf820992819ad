"""
One long-term memory shared by the whole network (like a hippocampus next to the cortex).

The transformer stack runs first; its residual stream is the short-term context. A single
NeuralMemory reads and writes along the sequence, and a gate decides per channel how much of
the prediction comes from context and how much from long-term memory.
Writes go through a momentum buffer, so surprise lingers for a few tokens (cf. Titans).
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model, n_slots=4):
        super().__init__()
        assert d_model % n_slots == 0
        self.h, self.p = n_slots, d_model // n_slots
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.err_weight = nn.Parameter(torch.randn(self.h, self.p) * self.p ** -0.5)
        self.err_bias = nn.Parameter(torch.zeros(self.h))
        self.forget = nn.Parameter(torch.full((self.h,), -3.0))
        self.inertia = nn.Parameter(torch.full((self.h,), -1.0))
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.in_proj(x).view(B, T, 3, self.h, self.p).unbind(2)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        keep = (1 - torch.sigmoid(self.forget))[None, :, None, None]
        eta = torch.sigmoid(self.inertia)[None, :, None, None]
        M = x.new_zeros(B, self.h, self.p, self.p)
        S = torch.zeros_like(M)
        y = []
        for t in range(T):
            kt, vt = k[:, t], v[:, t]
            err = vt - torch.einsum("bhij,bhj->bhi", M, kt)
            theta = torch.sigmoid((err.abs() * self.err_weight).sum(-1) + self.err_bias)
            S = eta * S + theta[..., None, None] * torch.einsum("bhi,bhj->bhij", err, kt)
            M = keep * M + S
            y.append(torch.einsum("bhij,bhj->bhi", M, q[:, t]).flatten(1))
        return self.out_proj(torch.stack(y, 1))


class TransformerBlock(nn.Module):
    def __init__(self, d, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.c_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc, self.fc_out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        B, T, D = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(B, T, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(a.transpose(1, 2).contiguous().view(B, T, D))
        return x + self.fc_out(F.gelu(self.fc(self.ln_2(x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, block_size=512):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.wpe = nn.Embedding(block_size, d_model)
        self.h = nn.ModuleList([TransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_mem = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.1)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.h:
            x = block(x)
        m = self.memory(self.ln_mem(x))
        g = torch.sigmoid(self.gate(x))
        x = m + g * (x - m)
        return self.lm_head(self.ln_f(x))
