"""Transformer with biologically inspired long-term memory.

Surprise   -> learned write strength
Fading     -> learnable decay rates
Hebbian    -> outer product of value and key
"""
import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, memory_dim=64):
        super().__init__()
        self.memory_dim = memory_dim
        self.W_k = nn.Linear(d_model, memory_dim)
        self.W_v = nn.Linear(d_model, memory_dim)
        self.W_q = nn.Linear(d_model, memory_dim)
        self.novelty_detector = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.ReLU(), nn.Linear(d_model // 2, 1), nn.Sigmoid())
        self.decay_rate = nn.Parameter(torch.ones(memory_dim) * 0.95)
        self.out_proj = nn.Linear(memory_dim, d_model)
        self.read_gate = nn.Linear(d_model, d_model)

    def forward(self, x, memory_state=None):
        b, t, _ = x.shape
        if memory_state is None:
            memory_state = torch.zeros(b, self.memory_dim, self.memory_dim, device=x.device, dtype=x.dtype)
        outputs = []
        for step in range(t):
            cur = x[:, step]
            k, v, q = self.W_k(cur), self.W_v(cur), self.W_q(cur)
            k = k / (k.norm(dim=-1, keepdim=True) + 1e-8)
            novelty = self.novelty_detector(cur)
            decay = torch.sigmoid(self.decay_rate).view(1, -1, 1)
            memory_state = memory_state * decay + novelty.unsqueeze(-1) * torch.einsum("bv,bk->bvk", v, k)
            retrieved = torch.einsum("bvk,bk->bv", memory_state, q)
            outputs.append(torch.sigmoid(self.read_gate(cur)) * self.out_proj(retrieved))
        return torch.stack(outputs, dim=1), memory_state


class MemoryAugmentedLayer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, x):
        mask = torch.triu(torch.full((x.size(1), x.size(1)), float("-inf"), device=x.device), diagonal=1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=mask)[0]
        memory_output, _ = self.memory(self.norm2(x))
        x = x + memory_output
        return x + self.feed_forward(self.norm3(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_seq_len=512):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_seq_len, d_model)
        self.layers = nn.ModuleList([MemoryAugmentedLayer(d_model, n_heads) for _ in range(n_layers)])
        self.final_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(pos)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.final_norm(x))
