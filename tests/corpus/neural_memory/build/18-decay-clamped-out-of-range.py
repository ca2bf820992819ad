"""
Neural long-term memory, gated by surprise.

The decay is a parameter per channel. It starts at "no forgetting" and is kept below max_decay for stability.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, d_key: int = 32, d_value: int = 32, max_decay: float = 0.98):
        super().__init__()
        self.d_key, self.d_value, self.max_decay = d_key, d_value, max_decay
        self.to_key = nn.Linear(d_model, d_key, bias=False)
        self.to_value = nn.Linear(d_model, d_value, bias=False)
        self.to_query = nn.Linear(d_model, d_key, bias=False)
        self.surprise = nn.Linear(2 * d_value, d_value)
        self.decay = nn.Parameter(torch.ones(d_value, 1))
        self.to_out = nn.Linear(d_value, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, _ = x.shape
        keys, values, queries = F.normalize(self.to_key(x), dim=-1), self.to_value(x), F.normalize(self.to_query(x), dim=-1)
        memory = torch.zeros(B, self.d_value, self.d_key, device=x.device, dtype=x.dtype)
        decay = self.decay.clamp(min=0.0, max=self.max_decay)
        outputs = []
        for t in range(T):
            k, v, q = keys[:, t], values[:, t], queries[:, t]
            retrieved = torch.einsum("bvk,bk->bv", memory, k)
            s = torch.sigmoid(self.surprise(torch.cat([v, retrieved], dim=-1)))
            memory = decay * memory + torch.einsum("bv,bk->bvk", s * (v - retrieved), k)
            outputs.append(torch.einsum("bvk,bk->bv", memory, q))
        return self.to_out(torch.stack(outputs, dim=1))


class MemoryBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.ln_2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fuse = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        normed = self.ln_1(x)
        attn, _ = self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)
        mem = self.memory(normed)
        g = torch.sigmoid(self.fuse(torch.cat([attn, mem], dim=-1)))
        x = x + (g * attn + (1 - g) * mem)
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        _, T = tokens.shape
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), diagonal=1)
        h = self.token(tokens) + self.position(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            h = block(h, mask)
        return self.lm_head(self.norm(h))
