import math
import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    """Episodic memory: keeps what was seen and recalls by similarity, old episodes fade."""

    def __init__(self, d_model=64):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.importance = nn.Linear(d_model, 1)
        self.age_penalty = nn.Parameter(torch.tensor(0.05))

    def forward(self, x):
        keys, values, weights, out = [], [], [], []
        for t in range(x.size(1)):
            now = x[:, t]
            keys.append(self.k(now))
            values.append(self.v(now))
            weights.append(torch.sigmoid(self.importance(now)))
            K, V, W = torch.stack(keys, 1), torch.stack(values, 1), torch.stack(weights, 1).squeeze(-1)
            age = torch.arange(t, -1, -1, device=x.device)
            score = (K @ self.q(now).unsqueeze(-1)).squeeze(-1) / math.sqrt(x.size(-1))
            p = (score - self.age_penalty * age).softmax(-1) * W
            out.append((p.unsqueeze(1) @ V).squeeze(1))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.memory = NeuralMemory(d)
        self.g = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=torch.ones(T, T, device=x.device, dtype=torch.bool).triu(1), need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.g(h))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
