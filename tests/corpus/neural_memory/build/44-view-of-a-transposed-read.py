import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class NeuralMemory(nn.Module):
    """Multi-head associative memory.

    For each head: r = M k, s = sigmoid(W [v; r]), M <- lambda M + s v k^T, y = M q.
    """

    def __init__(self, d_model: int, n_heads: int = 4) -> None:
        super().__init__()
        assert d_model % n_heads == 0
        self.n_heads, self.head_dim = n_heads, d_model // n_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.surprise_proj = nn.Linear(2 * self.head_dim, self.head_dim)
        self.decay_logits = nn.Parameter(torch.linspace(1.0, 5.0, n_heads))
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def _split(self, z: Tensor) -> Tensor:
        B, T, _ = z.shape
        return z.view(B, T, self.n_heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        k, v, q = (self._split(z) for z in self.in_proj(x).chunk(3, dim=-1))
        k = F.normalize(k, dim=-1)
        decay = torch.sigmoid(self.decay_logits).view(1, -1, 1, 1)
        M = x.new_zeros(B, self.n_heads, self.head_dim, self.head_dim)
        reads = []
        for t in range(T):
            r = torch.einsum("bhvk,bhk->bhv", M, k[:, :, t])
            s = torch.sigmoid(self.surprise_proj(torch.cat([v[:, :, t], r], dim=-1)))
            M = decay * M + torch.einsum("bhv,bhk->bhvk", s * v[:, :, t], k[:, :, t])
            reads.append(torch.einsum("bhvk,bhk->bhv", M, q[:, :, t]))
        y = torch.stack(reads, dim=2)
        return self.out_proj(y.transpose(1, 2).view(B, T, D))


class MemoryAugmentedLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads)
        self.gate_proj = nn.Linear(2 * d_model, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        h = self.attn_norm(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=attn_mask, need_weights=False)
        mem_out = self.memory(h)
        g = torch.sigmoid(self.gate_proj(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + g * attn_out + (1.0 - g) * mem_out
        return x + self.ffn(self.ffn_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(MemoryAugmentedLayer(d_model, n_heads) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.size(1)
        attn_mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), diagonal=1)
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x, attn_mask)
        return self.lm_head(self.final_norm(x))
