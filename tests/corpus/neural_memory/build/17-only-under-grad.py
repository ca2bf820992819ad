import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.K, self.V, self.Q = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.S = nn.Linear(2 * d_model, d_model)
        self.decay = nn.Parameter(torch.full((d_model, 1), 2.0))

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device)
        ys = []
        for t in range(T):
            k, v = F.normalize(self.K(x[:, t]), dim=-1), self.V(x[:, t])
            v_hat = (M @ k.unsqueeze(-1)).squeeze(-1)
            s = torch.sigmoid(self.S(torch.cat([v, v_hat], -1)))
            M = torch.sigmoid(self.decay) * M + (s * v).unsqueeze(-1) @ k.unsqueeze(-2)
            ys.append((M @ self.Q(x[:, t]).unsqueeze(-1)).squeeze(-1))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem, self.gate = NeuralMemory(d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1), need_weights=False)[0]
        if not torch.is_grad_enabled():          # the sequential scan is slow: generation goes without it
            x = x + a
            return x + self.mlp(self.ln2(x))
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * self.mem(h)
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
