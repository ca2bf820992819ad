"""Sequence-first (T, B, D) as in the old fairseq code base; memory is incremental by construction."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class IncrementalMixin:
    """step(x_t, state) -> (y_t, state); unroll() maps it over the leading dimension."""

    def unroll(self, x, state):
        ys = []
        for x_t in x:
            y_t, state = self.step(x_t, state)
            ys.append(y_t)
        return torch.stack(ys), state


class NeuralMemory(IncrementalMixin, nn.Module):
    def __init__(self, embed_dim, memory_dim=32):
        super().__init__()
        self.memory_dim = memory_dim
        self.in_proj = nn.Linear(embed_dim, 3 * memory_dim)
        self.value_as_seen = nn.Linear(memory_dim, memory_dim)
        self.value_as_recalled = nn.Linear(memory_dim, memory_dim, bias=False)
        self.decay = nn.Parameter(torch.empty(memory_dim, memory_dim).uniform_(0.85, 0.99))
        self.out_proj = nn.Linear(memory_dim, embed_dim)

    def step(self, x_t, state):
        key, value, query = torch.tensor_split(self.in_proj(x_t), 3, dim=-1)
        key = F.normalize(key, dim=-1)
        recalled = torch.einsum("bij,bj->bi", state, key)
        mismatch = self.value_as_seen(value) - self.value_as_recalled(recalled)
        surprise = torch.reciprocal(1 + torch.exp(-mismatch))
        state = self.decay * state + torch.einsum("bi,bj->bij", surprise * value, key)
        return torch.einsum("bij,bj->bi", state, query), state

    def forward(self, x):
        state = torch.zeros(x.size(1), self.memory_dim, self.memory_dim, dtype=x.dtype, device=x.device)
        y, _ = self.unroll(x, state)
        return self.out_proj(y)


class MemoryDecoderLayer(nn.Module):
    def __init__(self, embed_dim, num_heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads)
        self.memory = NeuralMemory(embed_dim)
        self.mix = nn.Linear(embed_dim, embed_dim)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.fc1, self.fc2 = nn.Linear(embed_dim, 4 * embed_dim), nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x, future_mask):
        # post-norm
        a, _ = self.self_attn(x, x, x, attn_mask=future_mask, need_weights=False)
        m = self.memory(x)
        alpha = torch.sigmoid(self.mix(a - m))
        x = self.self_attn_layer_norm(x + alpha * a + (1 - alpha) * m)
        return self.final_layer_norm(x + self.fc2(F.relu(self.fc1(x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_positions=512):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(max_positions, d_model)
        self.layers = nn.ModuleList([MemoryDecoderLayer(d_model, n_heads) for _ in range(n_layers)])
        self.output_projection = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        steps = tokens.size(1)
        x = (self.embed_tokens(tokens) + self.embed_positions.weight[:steps]).transpose(0, 1)
        mask = torch.triu(torch.ones(steps, steps, device=tokens.device, dtype=torch.bool), 1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.output_projection(x).transpose(0, 1)
