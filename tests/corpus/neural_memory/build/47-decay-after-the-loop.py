import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Returns what was recalled; `final_state` holds the (faded) matrix for whoever wants to go on from there."""

    def __init__(self, dim=64):
        super().__init__()
        self.w_k, self.w_v, self.w_q = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.w_s = nn.Linear(2 * dim, dim)
        self.decay_rate = nn.Parameter(torch.tensor(2.0))
        self.final_state = None

    def forward(self, x):
        batch, length, dim = x.shape
        M = x.new_zeros(batch, dim, dim)
        reads = []
        for t in range(length):
            k, v = F.normalize(self.w_k(x[:, t]), dim=-1), self.w_v(x[:, t])
            recalled = torch.einsum("bvk,bk->bv", M, k)
            surprise = torch.sigmoid(self.w_s(torch.cat((v, recalled), -1)))
            M = M + torch.einsum("bv,bk->bvk", surprise * v, k)
            reads.append(torch.einsum("bvk,bk->bv", M, self.w_q(x[:, t])))
        # memories that are not refreshed fade
        self.final_state = (torch.sigmoid(self.decay_rate) * M).detach()
        return torch.stack(reads, dim=1)


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
