import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Fast weights are state, not parameters, so their update is kept out of autograd (saves a lot of memory)."""

    def __init__(self, d_model=64):
        super().__init__()
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(3.0))

    @torch.no_grad()
    def update(self, M, x_t):
        k, v = F.normalize(self.W_k(x_t), dim=-1), self.W_v(x_t)
        error = v - torch.bmm(M, k.unsqueeze(-1)).squeeze(-1)
        s = torch.sigmoid(self.surprise(error))
        return torch.sigmoid(self.decay) * M + s.unsqueeze(-1) * torch.bmm(error.unsqueeze(-1), k.unsqueeze(1))

    def forward(self, x):
        M = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        outs = []
        for t in range(x.size(1)):
            M = self.update(M, x[:, t])
            outs.append(torch.bmm(M, self.W_q(x[:, t]).unsqueeze(-1)).squeeze(-1))
        return torch.stack(outs, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a
        g = torch.sigmoid(self.gate(x))
        x = g * x + (1 - g) * self.memory(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
