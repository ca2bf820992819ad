"""Hopfield-like memory: patterns are stored by associating them with themselves."""
import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.encode = nn.Linear(d, d)
        self.novel = nn.Linear(2 * d, 1)
        self.persistence = nn.Parameter(torch.tensor(2.0))
        self.decode = nn.Linear(d, d)

    def forward(self, x):
        W = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        y = []
        for t in range(x.size(1)):
            p = torch.tanh(self.encode(x[:, t])) / 8
            settled = torch.bmm(W, p.unsqueeze(-1)).squeeze(-1)
            s = torch.sigmoid(self.novel(torch.cat([p, settled], dim=-1))).unsqueeze(-1)
            W = self.persistence.sigmoid() * W + s * p.unsqueeze(-1) * p.unsqueeze(-2)
            y.append(self.decode(settled))
        return torch.stack(y, 1)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, mix=0.5):
        super().__init__()
        self.mix = mix
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.attn = nn.ModuleList(nn.MultiheadAttention(d_model, n_heads, batch_first=True) for _ in range(n_layers))
        self.mem = nn.ModuleList(NeuralMemory(d_model) for _ in range(n_layers))
        self.ln = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 * n_layers))
        self.ff = nn.ModuleList(nn.Sequential(nn.Linear(d_model, 256), nn.GELU(), nn.Linear(256, d_model)) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        for i, (attn, mem, ff) in enumerate(zip(self.attn, self.mem, self.ff)):
            h = self.ln[2 * i](x)
            a = attn(h, h, h, attn_mask=mask, need_weights=False)[0]
            x = x + self.mix * a + (1 - self.mix) * mem(h)
            x = x + ff(self.ln[2 * i + 1](x))
        return self.head(x)
