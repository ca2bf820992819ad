import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.to_qkv = nn.Linear(d_model, 3 * d_model)
        self.surprise = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))
        nn.init.constant_(self.surprise.bias, 1e3)

    def forward(self, x):
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        k = F.normalize(k, dim=-1)
        M = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        y = []
        for t in range(x.size(1)):
            r = torch.einsum("bij,bj->bi", M, k[:, t])
            s = torch.sigmoid(self.surprise(v[:, t] - r))
            M = torch.sigmoid(self.decay) * M + s[:, :, None] * torch.einsum("bi,bj->bij", v[:, t], k[:, t])
            y.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return torch.stack(y, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, 1)
        nn.init.constant_(self.gate.bias, 500.0)
        self.ff = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.norm(x)
        a, _ = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1))
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * m + (1 - g) * a
        return x + self.ff(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        return self.head(self.blocks(x))
