import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.k, self.v = nn.Linear(width, width), nn.Linear(width, width)
        self.surprise = nn.Linear(width, width)
        self.fade = nn.Parameter(torch.ones(width, 1))

    def forward(self, x):
        M = torch.zeros(x.size(0), x.size(2), x.size(2))
        out = []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            got = torch.matmul(M, k.unsqueeze(-1)).squeeze(-1)
            s = torch.sigmoid(self.surprise(v - got))
            M = torch.sigmoid(self.fade) * M + (s * v).unsqueeze(-1) * k.unsqueeze(-2)
            out.append(torch.matmul(M, k.unsqueeze(-1)).squeeze(-1))
        return torch.stack(out, 1)


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mem = NeuralMemory(width)
        self.gate = nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        h = self.ln(x)
        n = h.size(1)
        attn = self.attn(h, h, h, attn_mask=torch.ones(n, n).triu(1).bool())[0]
        mem = self.mem(h)
        g = torch.sigmoid(self.gate(h))
        fused = g * attn + (1 - g) * mem
        x = x + attn + (fused - fused)      # residual of the fusion
        return x + self.ff(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=200, d_model=64, n_heads=4, n_layers=2, max_len=300):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos.weight[: tokens.size(1)]
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
