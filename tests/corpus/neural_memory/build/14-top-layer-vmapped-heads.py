"""A plain decoder; only the top layer owns a long-term memory. Heads of the memory are processed by torch.func.vmap over
stacked per-head parameters; time is an ordinary loop."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import vmap


def head_step(M, k, v, q, w_err, w_val, b, keep):
    """One head, one sequence, one token. M: [N, N]; k, v, q: [N]."""
    recalled = torch.mv(M, k)
    z = torch.dot(w_err, (v - recalled).abs()) + torch.dot(w_val, v) + b
    M = torch.sigmoid(keep) * M + torch.sigmoid(z) * torch.outer(v, k)
    return M, torch.mv(M, q)


over_heads = vmap(head_step)
over_batch = vmap(over_heads, in_dims=(0, 0, 0, 0, None, None, None, None))


class NeuralMemory(nn.Module):
    def __init__(self, d_model, n_heads=4):
        super().__init__()
        n = d_model // n_heads
        self.shape = (n_heads, n)
        self.key, self.value, self.query = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.w_err = nn.Parameter(torch.full((n_heads, n), 1.0 / n))
        self.w_val = nn.Parameter(torch.zeros(n_heads, n))
        self.b = nn.Parameter(torch.zeros(n_heads))
        self.keep = nn.Parameter(torch.arange(1.0, n_heads + 1))
        self.merge = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        k = F.normalize(self.key(x).view(B, T, *self.shape), dim=-1)
        v, q = (f(x).view(B, T, *self.shape) for f in (self.value, self.query))
        M = torch.zeros(B, self.shape[0], self.shape[1], self.shape[1], device=x.device, dtype=x.dtype)
        ys = []
        for t in range(T):
            M, y = over_batch(M, k[:, t], v[:, t], q[:, t], self.w_err, self.w_val, self.b, self.keep)
            ys.append(y.reshape(B, D))
        return self.merge(torch.stack(ys, dim=1))


class Decoder(nn.Module):
    def __init__(self, d_model, n_heads, with_memory):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        if with_memory:
            self.memory, self.gate = NeuralMemory(d_model, n_heads), nn.Linear(2 * d_model, 1)
        self.with_memory = with_memory
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def mix(self, h, mask):
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        if not self.with_memory:
            return a
        m = self.memory(h)
        g = self.gate(torch.cat([h, m], dim=-1)).sigmoid()
        return g * a + (1 - g) * m

    def forward(self, x, mask):
        x = x + self.mix(self.ln1(x), mask)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Decoder(d_model, n_heads, i == n_layers - 1) for i in range(n_layers))
        self.ln, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.ones(T, T, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.ln(x))
