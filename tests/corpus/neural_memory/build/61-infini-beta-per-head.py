"""Infini-attention's fusion (a learned balance for each head, before the common output projection) with a recurrent
memory. Attention and memory share queries, keys and values."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, n_heads=4, d_head=16):
        super().__init__()
        self.err_weight = nn.Parameter(torch.randn(n_heads, d_head, d_head) * d_head ** -0.5)
        self.err_bias = nn.Parameter(torch.zeros(n_heads, d_head))
        self.lam = nn.Parameter(torch.full((n_heads, d_head, 1), 3.0))

    @staticmethod
    def phi(x):
        return F.normalize(F.elu(x) + 1, dim=-1)

    def forward(self, q, k, v):
        q, k = self.phi(q), self.phi(k)
        B, H, T, E = v.shape
        M = v.new_zeros(B, H, E, E)
        lam = torch.sigmoid(self.lam)
        out = []
        for t in range(T):
            delta = v[:, :, t] - torch.einsum("bhvk,bhk->bhv", M, k[:, :, t])
            surprise = torch.sigmoid(torch.einsum("bhi,hij->bhj", delta, self.err_weight) + self.err_bias)
            M = lam * M + torch.einsum("bhv,bhk->bhvk", surprise * delta, k[:, :, t])
            out.append(torch.einsum("bhvk,bhk->bhv", M, q[:, :, t]))
        return torch.stack(out, dim=2)


class InfiniAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.w_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.w_o = nn.Linear(d_model, d_model, bias=False)
        self.memory = NeuralMemory(n_heads, d_model // n_heads)
        self.beta = nn.Parameter(torch.zeros(1, n_heads, 1, 1))

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.w_qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        a_dot = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        a_mem = self.memory(q, k, v)
        g = torch.sigmoid(self.beta)
        a = g * a_mem + (1 - g) * a_dot
        return self.w_o(a.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = InfiniAttention(d_model, n_heads)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
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
