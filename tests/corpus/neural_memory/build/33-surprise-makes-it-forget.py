"""When something unexpected happens the old beliefs are given up faster: surprise lowers retention."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_state: int = 32):
        super().__init__()
        self.key = nn.Linear(d_model, d_state, bias=False)
        self.value = nn.Linear(d_model, d_state, bias=False)
        self.query = nn.Linear(d_model, d_state, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_state, d_state), nn.GELU(), nn.Linear(d_state, 1))
        self.base_decay = nn.Parameter(torch.tensor(3.0))
        self.out = nn.Linear(d_state, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, _ = x.shape
        k = F.normalize(self.key(x), dim=-1)
        v, q = self.value(x), self.query(x)
        M = torch.zeros(B, v.size(-1), k.size(-1), device=x.device, dtype=x.dtype)
        reads = []
        for t in range(T):
            recalled = torch.einsum("bvk,bk->bv", M, k[:, t])
            surprise = torch.sigmoid(self.surprise_net(v[:, t] - recalled)).unsqueeze(-1)
            decay = torch.sigmoid(self.base_decay) * (1 - 0.5 * surprise)
            M = decay * M + torch.einsum("bv,bk->bvk", v[:, t], k[:, t])
            reads.append(torch.einsum("bvk,bk->bv", M, q[:, t]))
        return self.out(torch.stack(reads, dim=1))


class MemoryBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        attn_out, _ = self.attn(y, y, y, attn_mask=attn_mask, need_weights=False)
        mem_out = self.memory(y)
        gate = torch.sigmoid(self.gate(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + gate * attn_out + (1.0 - gate) * mem_out
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_seq_len: int = 512):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_seq_len, d_model)
        self.blocks = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_emb.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.shape[1]
        mask = torch.triu(torch.ones(T, T, device=tokens.device, dtype=torch.bool), diagonal=1)
        x = self.token_emb(tokens) + self.pos_emb(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.lm_head(self.norm(x))
