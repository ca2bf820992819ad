"""RWKV/Mega flavoured: the memory is a bank of leaky traces, keys open channels and values fill them."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class TokenShift(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mu = nn.Parameter(torch.rand(dim))

    def forward(self, x):
        previous = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return self.mu * x + (1 - self.mu) * previous


class NeuralMemory(nn.Module):
    def __init__(self, dim, expand=2):
        super().__init__()
        inner = dim * expand
        self.shift_k, self.shift_v = TokenShift(dim), TokenShift(dim)
        self.key, self.value = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.receptance = nn.Linear(dim, inner, bias=False)
        self.surprise = nn.Linear(inner, inner)
        self.time_decay = nn.Parameter(torch.linspace(-5, 1, inner))
        self.output = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        k = torch.sigmoid(self.key(self.shift_k(x)))
        v = self.value(self.shift_v(x))
        r = torch.sigmoid(self.receptance(x))
        w = torch.exp(-torch.exp(self.time_decay))
        state = x.new_zeros(x.shape[0], v.shape[-1])
        ys = []
        for t in range(x.shape[1]):
            recalled = state * k[:, t]
            surprise = torch.sigmoid(self.surprise(v[:, t] - recalled))
            state = w * state + surprise * (v[:, t] * k[:, t])          # association of key and value
            ys.append(r[:, t] * state)
        return self.output(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln0, self.ln1 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.att = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mem = NeuralMemory(dim)
        self.mix_gate = nn.Linear(dim, dim)
        self.cm_k, self.cm_v = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x):
        T = x.shape[1]
        h = self.ln0(x)
        a = self.att(h, h, h, attn_mask=torch.triu(torch.ones(T, T, device=x.device, dtype=torch.bool), 1), need_weights=False)[0]
        g = torch.sigmoid(self.mix_gate(h))
        x = x + g * a + (1 - g) * self.mem(h)
        return x + self.cm_v(torch.relu(self.cm_k(self.ln1(x))).square())


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_out = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.emb(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(self.ln_out(x))
