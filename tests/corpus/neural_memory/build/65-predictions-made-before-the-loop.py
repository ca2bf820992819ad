import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, heads=4):
        super().__init__()
        self.heads = heads
        self.kvq = nn.Linear(dim, 3 * dim, bias=False)
        self.error_gate = nn.Linear(dim // heads, 1)
        self.decay = nn.Parameter(torch.full((heads, 1, 1), 2.5))
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        B, T, D = x.shape
        k, v, q = self.kvq(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        k = F.normalize(k, dim=-1)
        M = x.new_zeros(B, self.heads, D // self.heads, D // self.heads)

        # everything that does not need the loop is vectorised over time
        retrieved = torch.einsum("bhij,bhtj->bhti", M, k)
        surprise = torch.sigmoid(self.error_gate(v - retrieved))
        write_v = surprise * v
        decay = torch.sigmoid(self.decay)

        outputs = []
        for t in range(T):
            M = decay * M + torch.einsum("bhi,bhj->bhij", write_v[:, :, t], k[:, :, t])
            outputs.append(torch.einsum("bhij,bhj->bhi", M, q[:, :, t]))
        return self.out(torch.stack(outputs, dim=1).flatten(2))


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
