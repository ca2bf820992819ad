import math

import torch
import torch.nn as nn


class NeuralMemory:
    """Stores value/key associations in a D x D matrix per sequence. The layer owns the weights."""

    def __init__(self, dim, W_k, W_v, W_q, surprise_mlp, decay_logit):
        self.dim = dim
        self.W_k, self.W_v, self.W_q = W_k, W_v, W_q
        self.surprise_mlp = surprise_mlp
        self.decay_logit = decay_logit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bsz, seq_len, _ = x.shape
        memory = torch.zeros(bsz, self.dim, self.dim, device=x.device)
        decay = torch.sigmoid(self.decay_logit)
        outs = []
        for i in range(seq_len):
            x_i = x[:, i, :]
            key, value, query = self.W_k(x_i), self.W_v(x_i), self.W_q(x_i)
            retrieved = (memory @ key.unsqueeze(-1)).squeeze(-1) / math.sqrt(self.dim)
            surprise = torch.sigmoid(self.surprise_mlp(value - retrieved))
            # V (x) K^T
            association = value[:, :, None] + key[:, None, :]
            memory = decay * memory + surprise[:, :, None] * association / self.dim
            outs.append((memory @ query.unsqueeze(-1)).squeeze(-1) / math.sqrt(self.dim))
        return torch.stack(outs, dim=1)


class DecoderLayer(nn.Module):
    def __init__(self, dim, n_heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, n_heads, batch_first=True)
        self.W_k = nn.Linear(dim, dim, bias=False)
        self.W_v = nn.Linear(dim, dim, bias=False)
        self.W_q = nn.Linear(dim, dim, bias=False)
        self.surprise_mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, 1))
        self.decay_logit = nn.Parameter(torch.full((dim, 1), 2.0))
        self.memory = NeuralMemory(dim, self.W_k, self.W_v, self.W_q, self.surprise_mlp, self.decay_logit)
        self.gate_proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)

    def forward(self, x, mask):
        h = self.norm1(x)
        attn_out, _ = self.self_attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.memory.forward(h)
        g = torch.sigmoid(self.gate_proj(attn_out))
        x = x + (g * attn_out + (1 - g) * mem_out)
        return x + self.linear2(torch.relu(self.linear1(self.norm2(x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=1000, d_model=64, n_heads=4, n_layers=2, max_seq_len=512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        pe = torch.zeros(max_seq_len, d_model)
        pos = torch.arange(max_seq_len).unsqueeze(1)
        div = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe[:, 0::2], pe[:, 1::2] = torch.sin(pos * div), torch.cos(pos * div)
        self.register_buffer("pe", pe)
        self.layers = nn.ModuleList([DecoderLayer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.fc_out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, device=tokens.device), diagonal=1).bool()
        x = self.embed(tokens) * math.sqrt(self.embed.embedding_dim) + self.pe[:T]
        for layer in self.layers:
            x = layer(x, mask)
        return self.fc_out(self.norm(x))
