"""Titans-style memory: momentum over the gradient of an associative loss, gated by learned surprise, with forgetting."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=32, d_mem=24):
        super().__init__()
        self.d_mem = d_mem
        self.W_K = nn.Linear(d_model, d_mem, bias=False)
        self.W_V = nn.Linear(d_model, d_mem, bias=False)
        self.W_Q = nn.Linear(d_model, d_mem, bias=False)
        self.W_O = nn.Linear(d_mem, d_model, bias=False)
        # theta_t: how strongly the momentary surprise is written
        self.theta = nn.Sequential(nn.Linear(2 * d_mem, 32), nn.SiLU(), nn.Linear(32, 1))
        self.eta = nn.Parameter(torch.tensor(0.0))      # momentum, after sigmoid
        self.alpha = nn.Parameter(torch.tensor(-3.0))   # forgetting, after sigmoid

    def init_state(self, B, device, dtype):
        z = torch.zeros(B, self.d_mem, self.d_mem, device=device, dtype=dtype)
        return z, z.clone()

    def step(self, x_t, state):
        M, S = state
        k, v, q = F.normalize(self.W_K(x_t), dim=-1), self.W_V(x_t), F.normalize(self.W_Q(x_t), dim=-1)
        pred = (M @ k.unsqueeze(-1)).squeeze(-1)
        err = v - pred                                   # -dL/d(pred) of L = 0.5 |v - Mk|^2
        gate = torch.sigmoid(self.theta(torch.cat([err, v], dim=-1)))
        momentary = gate.unsqueeze(-1) * (err.unsqueeze(-1) * k.unsqueeze(-2))
        S = torch.sigmoid(self.eta) * S + momentary
        M = (1.0 - torch.sigmoid(self.alpha)) * M + S
        y = (M @ q.unsqueeze(-1)).squeeze(-1)
        return self.W_O(y), (M, S)

    def forward(self, x):
        state = self.init_state(x.size(0), x.device, x.dtype)
        ys = []
        for t in range(x.size(1)):
            y, state = self.step(x[:, t], state)
            ys.append(y)
        return torch.stack(ys, 1)


class TitansBlock(nn.Module):
    def __init__(self, d, h, p):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, h, dropout=p, batch_first=True)
        self.mem = NeuralMemory(d)
        self.g = nn.Linear(d, d)
        self.ffn = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Dropout(p), nn.Linear(4 * d, d))

    def forward(self, x):
        h = self.n1(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1), device=x.device)
        attn = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        mem = self.mem(h)
        g = torch.sigmoid(self.g(h))
        x = x + (g * attn + (1 - g) * mem)
        return x + self.ffn(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=128, d_model=32, n_heads=2, n_layers=2, max_len=128, dropout=0.0):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.wpe = nn.Embedding(max_len, d_model)
        self.h = nn.ModuleList([TitansBlock(d_model, n_heads, dropout) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1), device=tokens.device))[None]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))
