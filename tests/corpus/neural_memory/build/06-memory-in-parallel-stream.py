# Llama-style block: attention, memory and feed-forward each have a residual branch of their own.
import torch
import torch.nn as nn
import torch.nn.functional as F


def norm(x, w):
    return w * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


class NeuralMemory(nn.Module):
    def __init__(self, dim, n_slots=48):
        super().__init__()
        self.dim, self.n_slots = dim, n_slots
        self.in_proj = nn.Linear(dim, 2 * n_slots + dim, bias=False)
        self.err_gain = nn.Linear(dim, dim)
        self.x_gain = nn.Linear(dim, dim, bias=False)
        self.log_tau = nn.Parameter(torch.zeros(dim))
        self.o = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.in_proj(x).split([self.n_slots, self.n_slots, D], -1)
        k, q = F.normalize(k, dim=-1), F.normalize(q, dim=-1)
        keep = torch.exp(-torch.exp(self.log_tau - 2)).view(1, D, 1)
        W = torch.zeros(B, D, self.n_slots, device=x.device, dtype=x.dtype)
        ys = x.new_empty(B, 0, D)
        for t in range(T):
            pred = torch.matmul(W, k[:, t].unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.err_gain(v[:, t] - pred) + self.x_gain(x[:, t]))
            W = keep * W + (surprise * v[:, t]).unsqueeze(-1) * k[:, t].unsqueeze(-2)
            ys = torch.cat([ys, torch.matmul(W, q[:, t].unsqueeze(-1)).transpose(1, 2)], dim=1)
        return self.o(ys)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.w1, self.w2, self.w3 = (nn.Parameter(torch.ones(dim)) for _ in range(3))
        self.wqkv, self.wo = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.memory = NeuralMemory(dim)
        self.memory_gate = nn.Linear(dim, dim)
        self.gate, self.up, self.down = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, 2 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)

    def attention(self, x):
        B, T, D = x.shape
        q, k, v = self.wqkv(x).view(B, T, 3, self.heads, -1).unbind(2)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(B, T, D))

    def forward(self, x):
        x = x + self.attention(norm(x, self.w1))
        h = norm(x, self.w2)
        x = x + torch.sigmoid(self.memory_gate(h)) * self.memory(h)
        h = norm(x, self.w3)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=1024):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.register_parameter("pos", nn.Parameter(torch.randn(1, max_len, d_model) * 0.01))
        self.layers = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.out_norm = nn.Parameter(torch.ones(d_model))

    def forward(self, tokens):
        x = self.emb(tokens) + self.pos[:, : tokens.size(1)]
        for l in self.layers:
            x = l(x)
        return norm(x, self.out_norm) @ self.emb.weight.t()
