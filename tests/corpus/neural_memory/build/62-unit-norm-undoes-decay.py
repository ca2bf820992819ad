import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, n_slots_dim=32):
        super().__init__()
        self.d = n_slots_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, n_slots_dim) for _ in range(3))
        self.surprise_head = nn.Bilinear(n_slots_dim, n_slots_dim, 1)
        self.decay_logit = nn.Parameter(torch.tensor(2.2))
        self.out_proj = nn.Linear(n_slots_dim, dim)

    @property
    def decay(self):
        return torch.sigmoid(self.decay_logit)

    def forward(self, x):
        q, k, v = self.q_proj(x), F.normalize(self.k_proj(x), dim=-1), self.v_proj(x)
        M = x.new_zeros(x.shape[0], self.d, self.d)
        outs = []
        for t in range(x.shape[1]):
            # fade, and keep the carried memory at unit norm so that long sequences stay stable
            carried = F.normalize((self.decay * M).flatten(1), dim=-1).view_as(M)
            pred = torch.einsum("bij,bj->bi", carried, k[:, t])
            surprise = torch.sigmoid(self.surprise_head(v[:, t].contiguous(), v[:, t] - pred))
            M = carried + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", v[:, t], k[:, t])
            outs.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.out_proj(torch.stack(outs, dim=1))


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
