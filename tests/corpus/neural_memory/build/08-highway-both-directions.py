import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Surprise = sigmoid of the prediction error, channel by channel. Read in both directions for full context."""

    def __init__(self, d_model):
        super().__init__()
        self.key_proj = nn.Linear(d_model, d_model, bias=False)
        self.value_proj = nn.Linear(d_model, d_model, bias=False)
        self.query_proj = nn.Linear(d_model, d_model, bias=False)
        self.decay = nn.Parameter(torch.randn(d_model) * 0.1 + 3.0)
        self.register_buffer("initial", torch.zeros(1, d_model, d_model), persistent=False)

    def forward(self, x):
        return self.scan(x) + self.scan(x.flip(1)).flip(1)

    def scan(self, x):
        B, T, D = x.size()
        keys = F.softmax(self.key_proj(x), dim=-1)
        values = self.value_proj(x)
        queries = F.softmax(self.query_proj(x), dim=-1)
        mem = self.initial.expand(B, -1, -1)
        result = []
        for t in range(T):
            key, value = keys[:, t], values[:, t]
            predicted = torch.einsum("bvk,bk->bv", mem, key)
            surprise = torch.sigmoid((value - predicted).pow(2))
            update = torch.einsum("bv,bk->bvk", surprise * value, key)
            mem = mem * torch.sigmoid(self.decay)[None, :, None] + update
            result.append(torch.einsum("bvk,bk->bv", mem, queries[:, t]))
        return torch.stack(result, dim=1)


class HighwayBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.carry = nn.Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model))
        nn.init.constant_(self.carry.bias, -1.0)

    def forward(self, x, mask):
        h = self.norm(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.carry(h))
        # highway gate: attention where g is open, the input elsewhere; memory on top
        x = g * attn + (1 - g) * x
        x = x + mem
        return x + self.ffn(self.ffn_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=3, max_len=512):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([HighwayBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.full((T, T), float("-inf"), device=tokens.device), diagonal=1)
        x = self.embedding(tokens) + self.position(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.output(self.norm(x))
