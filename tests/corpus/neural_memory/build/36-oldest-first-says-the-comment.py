import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Moments are handled strictly in the order in which they came in: moment t meets what moment t - 1 left."""

    def __init__(self, dim=64):
        super().__init__()
        self.key, self.value, self.query = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.compare = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 1))
        self.decay = nn.Parameter(torch.full((dim, 1), 3.0))

    def forward(self, x):
        M = x.new_zeros(x.shape[0], x.shape[2], x.shape[2])
        stream = list(x.unbind(dim=1))              # a stack, its top is the oldest moment
        out = []
        while stream:
            now = stream.pop()                      # oldest first
            k, v, q = F.normalize(self.key(now), dim=-1), self.value(now), self.query(now)
            surprise = torch.sigmoid(self.compare(v - torch.einsum("bij,bj->bi", M, k)))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", surprise * v, k)
            out.append(torch.einsum("bij,bj->bi", M, q))
        return torch.stack(out[::-1], dim=1)


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
        self.fusion = nn.Linear(2 * dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        normed = self.pre_norm(x)
        attended, remembered = self.attention(normed), self.memory(normed)
        alpha = torch.sigmoid(self.fusion(torch.cat([attended, remembered], dim=-1)))
        x = x + torch.lerp(remembered, attended, alpha)
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
