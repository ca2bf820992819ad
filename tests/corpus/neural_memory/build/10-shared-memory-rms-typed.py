# One NeuralMemory is shared by all layers (its weights, not its state). Typed so that it could be scripted.
from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class RMSNorm(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.g


class NeuralMemoryCell(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.ln_err = nn.LayerNorm(d)
        self.err_head = nn.Linear(d, 1)
        self.decay = nn.Parameter(torch.tensor(2.2))

    def forward(self, x: Tensor, M: Tensor) -> Tuple[Tensor, Tensor]:
        k: Tensor = F.normalize(F.silu(self.k_proj(x)), dim=-1)
        v: Tensor = self.v_proj(x)
        r: Tensor = torch.einsum("bij,bj->bi", M, k)
        s: Tensor = torch.sigmoid(self.err_head(self.ln_err(torch.square(x - r))))
        M_next: Tensor = M.mul(self.decay.sigmoid()) + torch.einsum("b,bi,bj->bij", s.squeeze(-1), v - r, k)
        return r, M_next


class NeuralMemory(nn.Module):
    def __init__(self, d: int = 48):
        super().__init__()
        self.cell = NeuralMemoryCell(d)

    def forward(self, x: Tensor) -> Tensor:
        M: Tensor = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        reads: List[Tensor] = []
        for t in range(x.size(1)):
            r, M = self.cell(x[:, t], M)
            reads.append(r)
        return torch.stack(reads, 1)


class SwiGLU(nn.Module):
    def __init__(self, d: int, h: int):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(d, h), nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.silu(self.a(x)) * self.b(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 180, d_model: int = 48, n_heads: int = 4, n_layers: int = 2, max_len: int = 400):
        super().__init__()
        self.n_heads = n_heads
        self.embed = nn.Embedding(vocab_size, d_model)
        self.wpe = nn.Embedding(max_len, d_model)
        self.memory = NeuralMemory(d_model)
        self.qkv = nn.ModuleList([nn.Linear(d_model, 3 * d_model, bias=False) for _ in range(n_layers)])
        self.gates = nn.ModuleList([nn.Linear(d_model, n_heads) for _ in range(n_layers)])
        self.n1 = nn.ModuleList([RMSNorm(d_model) for _ in range(n_layers)])
        self.n2 = nn.ModuleList([RMSNorm(d_model) for _ in range(n_layers)])
        self.ff = nn.ModuleList([SwiGLU(d_model, 96) for _ in range(n_layers)])
        self.norm = RMSNorm(d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        B, T = tokens.shape
        x = self.embed(tokens) + self.wpe.weight[:T]
        for qkv, gate, n1, n2, ff in zip(self.qkv, self.gates, self.n1, self.n2, self.ff):
            h = n1(x)
            q, k, v = qkv(h).view(B, T, 3, self.n_heads, -1).unbind(2)
            a = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True).transpose(1, 2)
            m = self.memory(h).view_as(a)
            g = gate(h).sigmoid().unsqueeze(-1)          # a gate per head
            x = x + ((1 - g) * a + g * m).flatten(2)
            x = x + ff(n2(x))
        return F.linear(self.norm(x), self.embed.weight)
