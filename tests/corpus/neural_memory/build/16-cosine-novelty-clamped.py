import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Fast-weight memory. A moment is novel when what is recalled for its key points elsewhere than its value."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.retain = nn.Parameter(torch.full((heads, 1, 1), 2.0))
        self.novelty_gain = nn.Parameter(torch.ones(heads))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        B, T, W = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, self.size).unbind(2)
        k = F.normalize(k, dim=-1)
        A = x.new_zeros(B, self.heads, self.size, self.size)
        ys = []
        for t in range(T):
            recalled = (A @ k[:, t].unsqueeze(-1)).squeeze(-1)
            similarity = F.cosine_similarity(recalled, v[:, t], dim=-1)
            novelty = (self.novelty_gain * (1 - similarity) / 2).clamp(0, 1)
            A = self.retain.sigmoid() * A + novelty[..., None, None] * v[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)
            ys.append((A @ q[:, t].unsqueeze(-1)).squeeze(-1))
        return self.out(torch.stack(ys, 1).reshape(B, T, W))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.pre, self.mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.memory = NeuralMemory(width, heads)
        self.balance = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, mask):
        y = self.pre(x)
        attended, _ = self.attention(y, y, y, attn_mask=mask, need_weights=False)
        balance = torch.sigmoid(self.balance(y))
        x = x + torch.lerp(self.memory(y), attended, balance)
        return x + self.mlp(self.mid(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, context=512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.where = nn.Embedding(context, d_model)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, device=tokens.device, dtype=torch.bool), diagonal=1)
        x = self.embed(tokens) + self.where(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x, mask)
        return self.unembed(self.norm(x))
