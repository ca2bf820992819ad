import torch
from torch import nn


class NeuralMemory(nn.Module):
    def __init__(self, n=60):
        super().__init__()
        self.wk, self.wv, self.wq = (nn.Linear(n, n, bias=False) for _ in range(3))
        self.error_to_gate = nn.Linear(n, n)
        self.lam = nn.Parameter(torch.ones(n) * 3)

    def forward(self, x):
        memory = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        lam = self.lam.sigmoid().view(1, -1, 1)
        out = []
        for i in range(x.size(1)):
            k, v, q = self.wk(x[:, i]).softmax(-1), self.wv(x[:, i]), self.wq(x[:, i]).softmax(-1)
            gap = v - (memory @ k.unsqueeze(-1)).squeeze(-1)
            s = self.error_to_gate(gap).sigmoid()
            memory = lam * memory + (s * gap).unsqueeze(-1) * k.unsqueeze(1)
            out.append((memory @ q.unsqueeze(-1)).squeeze(-1))
        return torch.stack(out, 1)


class Layer(nn.Module):
    def __init__(self, n, heads):
        super().__init__()
        self.ln = nn.ModuleList([nn.LayerNorm(n) for _ in range(3)])
        self.attention = nn.MultiheadAttention(n, heads, batch_first=True)
        self.memory = NeuralMemory(n)
        self.gate = nn.Linear(n, n)
        self.mlp = nn.Sequential(nn.Linear(n, 4 * n), nn.GELU(), nn.Linear(4 * n, n))

    def forward(self, x, mask):
        h = self.ln[0](x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        h = self.ln[1](x)
        m = self.memory(h)
        x = x + torch.sigmoid(self.gate(h)) * m
        return x + self.mlp(self.ln[2](x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=128, d_model=60, n_heads=6, n_layers=2, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        t = tokens.size(1)
        x = self.tok(tokens) + self.pos[:t]
        mask = torch.triu(torch.ones(t, t, device=tokens.device, dtype=torch.bool), 1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(x)
