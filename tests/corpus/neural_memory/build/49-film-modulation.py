import torch
from torch import nn
import torch.nn.functional as F


def read(M, cue):
    return torch.einsum("bnij,bnj->bni", M, cue)


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, n=2):
        super().__init__()
        self.n = n
        self.kvq = nn.ModuleList([nn.Linear(dim, dim) for _ in range(3)])
        self.novelty = nn.Sequential(nn.Linear(dim // n, 16), nn.GELU(), nn.Linear(16, 1))
        self.persistence = nn.Parameter(torch.tensor([2.0, 4.0]).view(1, n, 1, 1))
        self.project = nn.Linear(dim, dim)

    def forward(self, x):
        k, v, q = (f(x).unflatten(-1, (self.n, -1)) for f in self.kvq)
        k = F.normalize(k, dim=-1)
        M = x.new_zeros(x.shape[0], self.n, k.shape[-1], k.shape[-1])
        out = []
        for i in range(x.shape[1]):
            s = torch.sigmoid(self.novelty(v[:, i] - read(M, k[:, i])))
            M = M * self.persistence.sigmoid() + torch.einsum("bni,bnj->bnij", s * v[:, i], k[:, i])
            out.append(read(M, q[:, i]).flatten(1))
        return self.project(torch.stack(out, 1))


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
        self.fusion = nn.Linear(dim, 2 * dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        normed = self.pre_norm(x)
        # what is remembered modulates what is attended to (feature-wise linear modulation)
        scale, shift = self.fusion(self.memory(normed)).chunk(2, dim=-1)
        x = x + self.attention(normed) * torch.sigmoid(scale) + shift
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
