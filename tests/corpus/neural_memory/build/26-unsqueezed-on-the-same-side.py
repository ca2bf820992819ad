import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.key_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.query_proj = nn.Linear(dim, dim)
        self.surprise_gate = nn.Linear(dim, dim)
        self.decay = nn.Parameter(torch.tensor(0.95).logit())

    def forward(self, x):
        bsz, seq_len, dim = x.shape
        memory = torch.zeros(bsz, dim, dim, device=x.device, dtype=x.dtype)
        retrieved_all = []

        for step in range(seq_len):
            token = x[:, step]
            key = F.normalize(self.key_proj(token), dim=-1)
            value = self.value_proj(token)
            query = self.query_proj(token)

            predicted = torch.bmm(memory, key.unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.surprise_gate(value - predicted))

            # V (x) K^T
            association = (surprise * value).unsqueeze(-1) * key.unsqueeze(-1)
            memory = torch.sigmoid(self.decay) * memory + association

            retrieved_all.append(torch.bmm(memory, query.unsqueeze(-1)).squeeze(-1))

        return torch.stack(retrieved_all, dim=1)


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
