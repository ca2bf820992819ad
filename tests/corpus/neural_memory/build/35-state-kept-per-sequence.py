"""Streaming long-term memory: the matrix of every sequence in the batch lives on from one segment to the next."""
import torch
from torch import nn
from torch.nn import functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.query = nn.Linear(dim, dim, bias=False)
        self.err_scale = nn.Parameter(torch.ones(dim))
        self.err_bias = nn.Parameter(torch.zeros(dim))
        self.decay_logit = nn.Parameter(torch.full((1, dim, 1), 2.0))
        self.state = None

    def reset_memory(self):
        self.state = None

    def get_state(self, x):
        if self.state is None or self.state.size(0) != x.size(0):
            return x.new_zeros(x.size(0), x.size(-1), x.size(-1))
        return self.state.to(x)

    def forward(self, x):
        M = self.get_state(x)
        retained = torch.sigmoid(self.decay_logit)
        chunks = []
        for i in range(x.size(1)):
            token = x[:, i, :]
            k, v, q = F.normalize(self.key(token), dim=-1), self.value(token), self.query(token)
            recalled = torch.einsum("bij,bj->bi", M, k)
            surprise = torch.sigmoid(self.err_scale * (v - recalled).abs() + self.err_bias)
            M = retained * M + torch.einsum("bi,bj->bij", surprise * v, k)
            chunks.append(torch.einsum("bij,bj->bi", M, q))
        self.state = M.detach()                     # truncated backpropagation between segments
        return torch.stack(chunks, dim=1)


class MemoryLayer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn_norm, self.ff_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.combine = nn.Linear(dim, dim)
        self.ff = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x):
        seq = x.size(1)
        n = self.attn_norm(x)
        mask = torch.ones((seq, seq), device=x.device, dtype=torch.bool).triu(diagonal=1)
        short = self.attn(n, n, n, attn_mask=mask, need_weights=False)[0]
        long = self.memory(n)
        g = torch.sigmoid(self.combine(n))
        x = x + g * short + (1 - g) * long
        return x + self.ff(self.ff_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([MemoryLayer(d_model, n_heads) for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def reset_memory(self):
        for layer in self.layers:
            layer.memory.reset_memory()

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.out(x)
