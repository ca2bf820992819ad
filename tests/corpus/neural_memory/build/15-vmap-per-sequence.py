"""The memory is written for one sequence, with matrices and vectors only; torch.vmap runs it over the batch."""

import torch
from torch import nn
from torch.nn import functional as F


class NeuralMemory(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        init = width**-0.5
        self.K = nn.Parameter(torch.randn(width, width) * init)
        self.V = nn.Parameter(torch.randn(width, width) * init)
        self.Q = nn.Parameter(torch.randn(width, width) * init)
        self.G = nn.Parameter(torch.randn(width, width) * init)
        self.g0 = nn.Parameter(torch.zeros(width))
        self.retain = nn.Parameter(torch.tensor(0.95))

    def of_one(self, seq):
        A = torch.zeros_like(self.K)
        said = []
        for x in seq.unbind(0):
            k, v, q = self.K @ x, self.V @ x, self.Q @ x
            k, q = k / (k.norm() + 1e-6), q / (q.norm() + 1e-6)
            # no gradient through the recall: the gate learns to weigh the error, the writes learn through the read
            recalled = (A @ k).detach()
            surprise = torch.sigmoid(self.G @ (v - recalled) + self.g0)
            A = self.retain * A + torch.outer(surprise * v, k)
            said.append(A @ q)
        return torch.stack(said)

    def forward(self, x):
        return torch.vmap(self.of_one)(x)


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.memory = NeuralMemory(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.blend = nn.Parameter(torch.zeros(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x):
        h = self.norms[0](x)
        T = h.shape[1]
        mem = self.memory(h)
        hidden = torch.triu(h.new_full((T, T), -torch.inf), 1)
        att, _ = self.attention(h, h, h, attn_mask=hidden, need_weights=False)
        g = torch.sigmoid(torch.cat((att, mem), -1) @ self.blend)
        x = x + g * mem + (1 - g) * att
        return x + self.mlp(self.norms[1](x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=200, d_model=32, n_heads=2, n_layers=2, longest=300):
        super().__init__()
        self.words = nn.Embedding(vocab_size, d_model)
        self.where = nn.Embedding(longest, d_model)
        self.layers = nn.Sequential(*[Layer(d_model, n_heads) for _ in range(n_layers)])
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens):
        x = self.words(tokens) + self.where.weight[None, : tokens.shape[1]]
        return F.linear(self.layers(x), self.words.weight, self.bias)
