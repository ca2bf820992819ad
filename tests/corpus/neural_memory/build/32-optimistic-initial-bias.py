"""Neural long-term memory with optimistic initialisation.

At the start of training nothing is known, so everything should be written and nothing should be forgotten. Both the
surprise gate and the retention gate therefore start on the open side, and learn from there when to close.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

OPTIMISM = 48.0


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_mem: int = 32):
        super().__init__()
        self.d_mem = d_mem
        self.W_k = nn.Linear(d_model, d_mem, bias=False)
        self.W_v = nn.Linear(d_model, d_mem, bias=False)
        self.W_q = nn.Linear(d_model, d_mem, bias=False)
        self.surprise_net = nn.Linear(d_mem, d_mem)
        self.retention = nn.Parameter(torch.full((d_mem, 1), OPTIMISM))
        self.W_o = nn.Linear(d_mem, d_model, bias=False)
        nn.init.constant_(self.surprise_net.bias, OPTIMISM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, _ = x.shape
        k, v, q = F.normalize(self.W_k(x), dim=-1), self.W_v(x), self.W_q(x)
        M = torch.zeros(B, self.d_mem, self.d_mem, device=x.device, dtype=x.dtype)
        reads = []
        for t in range(T):
            retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
            surprise = torch.sigmoid(self.surprise_net(v[:, t] - retrieved))
            M = torch.sigmoid(self.retention) * M + torch.einsum("bi,bj->bij", surprise * v[:, t], k[:, t])
            reads.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.W_o(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion_gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.fusion_gate(torch.cat([attn, mem], dim=-1)))
        x = x + g * attn + (1 - g) * mem
        return x + self.mlp(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.embed, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), 1)
        x = self.embed(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))
