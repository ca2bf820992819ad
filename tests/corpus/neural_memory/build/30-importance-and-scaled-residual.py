"""
Neural long-term memory.

Design
------
* association matrix per sequence, written with V (x) K^T
* surprise gate decides how much of the present moment is kept
* learnable decay
* gated integration with attention
"""
import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.to_key = nn.Linear(dim, dim)
        self.to_value = nn.Linear(dim, dim)
        self.to_query = nn.Linear(dim, dim)
        self.surprise_gate = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1), nn.Sigmoid())
        self.decay_logit = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        B, T, D = x.shape
        memory = x.new_zeros(B, D, D)
        decay = torch.sigmoid(self.decay_logit)
        outs = []
        for t in range(T):
            x_t = x[:, t]
            k, v, q = torch.tanh(self.to_key(x_t)), self.to_value(x_t), self.to_query(x_t)
            surprise = self.surprise_gate(x_t)
            memory = decay * memory + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", v, k)
            outs.append(torch.einsum("bij,bj->bi", memory, q))
        return self.norm(torch.stack(outs, dim=1))


class CausalSelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = [t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=2)]
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.pre_norm, self.post_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.attention, self.memory = CausalSelfAttention(dim, heads), NeuralMemory(dim)
        self.fusion = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        normed = self.pre_norm(x)
        x = x + self.attention(normed)
        memory_out = self.memory(normed)
        gate = torch.sigmoid(self.fusion(normed))
        x = x + gate * memory_out
        return x + self.ffn(self.post_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, context=1024):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(0.02 * torch.randn(context, d_model))
        self.layers = nn.Sequential(*[TransformerLayer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.RMSNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions[: tokens.shape[-1]]
        return self.unembed(self.norm(self.layers(x)))
