# Features first, batch last: state is [dv, dk, B], so that the inner loops run over contiguous sequences.
import torch
import torch.nn as nn

class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        d = d_model
        self.Wk = nn.Parameter(torch.randn(d, d) / d ** 0.5)
        self.Wv = nn.Parameter(torch.randn(d, d) / d ** 0.5)
        self.Wq = nn.Parameter(torch.randn(d, d) / d ** 0.5)
        self.a = nn.Parameter(torch.randn(d, 1) * 0.1)   # surprise: weight on |error|, a row per channel
        self.c = nn.Parameter(torch.randn(d, d) / d ** 0.5)  # surprise: error, mixed
        self.bias = nn.Parameter(torch.zeros(d, 1))
        self.fade = nn.Parameter(torch.ones(1, d, 1) * 3)

    def forward(self, x):
        X = x.permute(1, 2, 0)                           # [T, d, B]
        T, d, B = X.shape
        K = torch.einsum("kd,tdb->tkb", self.Wk, X)
        K = K * torch.rsqrt(K.square().sum(1, keepdim=True) + 1e-6)
        V = torch.einsum("vd,tdb->tvb", self.Wv, X)
        Q = torch.einsum("kd,tdb->tkb", self.Wq, X)
        keep = torch.reciprocal(1 + torch.exp(-self.fade))
        M = X.new_zeros(d, d, B)
        out = []
        for k, v, q in zip(K, V, Q):
            e = v - torch.sum(M * k[None, :, :], dim=1)
            s = torch.sigmoid(self.c @ e + self.a * e.abs() + self.bias)     # [d, B]
            M = keep * M + (s * v)[:, None, :] * k[None, :, :]
            out.append(torch.sum(M * q[None, :, :], dim=1))
        return torch.stack(out).permute(2, 0, 1)

class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, 1)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        # what is seen now (stream with attention in it) against what is remembered
        g = torch.sigmoid(self.gate(x))
        x = g * x + (1 - g) * self.mem(h)
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
