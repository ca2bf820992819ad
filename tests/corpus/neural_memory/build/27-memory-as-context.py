"""Memory as context (MAC): what the memory recalls for a position is shown to attention as extra keys and values."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim, mem_dim=32):
        super().__init__()
        self.mem_dim = mem_dim
        self.k, self.v, self.q = (nn.Linear(dim, mem_dim, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.Linear(mem_dim, mem_dim), nn.SiLU(), nn.Linear(mem_dim, 1), nn.Sigmoid())
        self.decay = nn.Parameter(torch.full((mem_dim, 1), 2.5))
        self.o = nn.Linear(mem_dim, dim, bias=False)

    def forward(self, x):
        k, v, q = F.normalize(self.k(x), dim=-1), self.v(x), self.q(x)
        M = x.new_zeros(x.size(0), self.mem_dim, self.mem_dim)
        ys = []
        for t in range(x.size(1)):
            err = v[:, t] - torch.einsum("bij,bj->bi", M, k[:, t])
            M = self.decay.sigmoid() * M + torch.einsum("bi,bj->bij", self.surprise(err) * v[:, t], k[:, t])
            ys.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.o(torch.stack(ys, 1))


class ContextAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.o = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mem_gate = nn.Linear(dim, dim)

    def forward(self, x, recalled):
        B, T, D = x.shape
        recalled = torch.sigmoid(self.mem_gate(x)) * recalled
        k, v = self.kv(torch.cat([recalled, x], dim=1)).view(B, 2 * T, 2, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q = self.q(x).view(B, T, self.heads, -1).transpose(1, 2)
        causal = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=causal.repeat(1, 2))
        return self.o(y.transpose(1, 2).reshape(B, T, D))


class MACBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.memory, self.attn = NeuralMemory(dim), ContextAttention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        h = self.n1(x)
        x = x + self.attn(h, self.memory(h))
        return x + self.mlp(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[MACBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        return self.head(self.norm(self.blocks(x)))
