from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Neural long-term memory in the weights of a fast linear map.

    For every token: recall, measure surprise, fade, associate.
    """

    def __init__(self, d_model: int, mem_dim: int | None = None) -> None:
        super().__init__()
        mem_dim = mem_dim or d_model // 2
        self.mem_dim = mem_dim
        self.key_proj = nn.Linear(d_model, mem_dim, bias=False)
        self.value_proj = nn.Linear(d_model, mem_dim, bias=False)
        self.query_proj = nn.Linear(d_model, mem_dim, bias=False)
        self.novelty_net = nn.Sequential(nn.Linear(2 * mem_dim, mem_dim), nn.GELU(), nn.Linear(mem_dim, 1))
        self.decay_logit = nn.Parameter(torch.tensor(2.197))  # sigmoid -> 0.9
        self.out_proj = nn.Linear(mem_dim, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        scale = 1.0 / math.sqrt(self.mem_dim)
        M = x.new_zeros(batch, self.mem_dim, self.mem_dim)
        decay = torch.sigmoid(self.decay_logit)
        outputs = []
        for t in range(length):
            x_t = x[:, t]
            k_t = F.normalize(self.key_proj(x_t), dim=-1)
            v_t = self.value_proj(x_t)
            recalled = torch.einsum("bvk,bk->bv", M, k_t)
            novelty = torch.sigmoid(self.novelty_net(torch.cat([v_t, v_t - recalled], dim=-1)))
            M = decay * M + novelty.unsqueeze(-1) * torch.einsum("bv,bk->bvk", v_t, k_t)
            outputs.append(torch.einsum("bvk,bk->bv", M, self.query_proj(x_t)) * scale)
        return self.out_proj(torch.stack(outputs, dim=1))


class MemoryAttentionBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion_gate = nn.Linear(2 * d_model, d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.size(1)
        causal = torch.triu(torch.ones(length, length, dtype=torch.bool, device=x.device), diagonal=1)
        h = self.norm1(x)
        attended, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        remembered = self.memory(h)
        g = torch.sigmoid(self.fusion_gate(torch.cat([attended, remembered], dim=-1)))
        x = x + g * attended + (1.0 - g) * remembered
        return x + self.ffn(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([MemoryAttentionBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok_emb(tokens) + self.pos_emb(positions)[None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))
