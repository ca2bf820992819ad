import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.wk, self.wv, self.wq = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.Linear(d_model, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
        self.decay = nn.Parameter(torch.tensor(1.7))

    def forward(self, x):
        S = x.new_zeros(x.size(0), x.size(2), x.size(2))
        ys = []
        for x_t in x.unbind(1):
            k, v = F.normalize(self.wk(x_t), dim=-1), self.wv(x_t)
            s = self.surprise(v - (S @ k.unsqueeze(-1)).squeeze(-1))
            S = self.decay.sigmoid() * S + s.unsqueeze(-1) * v.unsqueeze(-1) * k.unsqueeze(-2)
            ys.append((S @ self.wq(x_t).unsqueeze(-1)).squeeze(-1))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.memory_projection = nn.Linear(d_model, d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        attn = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)[0]
        raw = self.memory(h)
        mem = self.memory_projection(h)
        g = torch.sigmoid(self.gate(h))
        fused = g * attn + (1 - g) * mem
        x = x + fused + 0.1 * raw
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
