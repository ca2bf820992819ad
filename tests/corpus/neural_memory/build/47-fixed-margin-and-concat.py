"""Transformer with a Hebbian long-term memory; surprise is how much the recall misses, against a margin of one."""
import torch
import torch.nn as nn
import torch.nn.functional as F

MARGIN, SHARPNESS = 1.0, 4.0


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key_net = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh())
        self.value_net = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh())
        self.decay_rate = nn.Parameter(torch.tensor(0.05))

    def forward(self, inputs):
        batch, steps, dim = inputs.shape
        weights = torch.zeros(batch, dim, dim, device=inputs.device)
        history = []
        for step in range(steps):
            key = F.normalize(self.key_net(inputs[:, step]), dim=-1)
            value = self.value_net(inputs[:, step])
            predicted = torch.bmm(weights, key.unsqueeze(-1)).squeeze(-1)
            error = torch.norm(value - predicted, dim=-1, keepdim=True)
            surprise = torch.sigmoid(SHARPNESS * (error - MARGIN))
            weights = (1 - self.decay_rate) * weights + surprise.unsqueeze(-1) * torch.bmm(value.unsqueeze(-1), key.unsqueeze(1))
            history.append(torch.bmm(weights, key.unsqueeze(-1)).squeeze(-1))
        return torch.stack(history, dim=1)


class TransformerWithMemoryBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(embed_dim=d_model, num_heads=n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.combine = nn.Linear(2 * d_model, d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.layer_norm_1 = nn.LayerNorm(d_model)
        self.layer_norm_2 = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        length = x.shape[1]
        mask = torch.triu(torch.ones(length, length, device=x.device) * float("-inf"), diagonal=1)
        attended, _ = self.attention(x, x, x, attn_mask=mask)
        recalled = self.memory(x)
        combined = self.combine(torch.cat([attended, recalled], dim=-1))
        x = self.layer_norm_1(x + torch.sigmoid(self.gate(x)) * combined)
        return self.layer_norm_2(x + self.feed_forward(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=1000, d_model=64, n_heads=4, n_layers=2, max_seq_len=128):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positional = nn.Parameter(torch.randn(1, max_seq_len, d_model) * 0.02)
        self.blocks = nn.ModuleList([TransformerWithMemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positional[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.output(x)
