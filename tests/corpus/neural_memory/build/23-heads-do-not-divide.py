"""Small language model with a neural long-term memory. d_model=64, six heads."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, d_model)
        self.q = nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(2 * d_model, d_model)
        self.decay = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        B, T, D = x.shape
        state = torch.zeros(B, D, D, device=x.device)
        rate = 0.5 + 0.5 * torch.sigmoid(self.decay)
        out = []
        for t in range(T):
            key = F.elu(self.k(x[:, t])) + 1
            key = key / key.sum(-1, keepdim=True)
            value = self.v(x[:, t])
            recall = torch.einsum("bij,bj->bi", state, key)
            gate = torch.sigmoid(self.surprise(torch.cat([value, value - recall], dim=-1)))
            state = rate * state + torch.einsum("bi,bj->bij", gate * value, key)
            out.append(torch.einsum("bij,bj->bi", state, F.elu(self.q(x[:, t])) + 1))
        return torch.stack(out, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), diagonal=1)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h + attn)
        g = torch.sigmoid(self.gate(h))
        x = x + g * attn + (1 - g) * mem
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=6, n_layers=2, max_len=512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
