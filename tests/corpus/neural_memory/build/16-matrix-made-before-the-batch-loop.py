import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """One sequence at a time, one token at a time. Slow, but easy to follow."""

    def __init__(self, d_model=64):
        super().__init__()
        self.d_model = d_model
        self.to_key = nn.Linear(d_model, d_model)
        self.to_value = nn.Linear(d_model, d_model)
        self.to_query = nn.Linear(d_model, d_model)
        self.surprise = nn.Sequential(nn.Linear(2 * d_model, 32), nn.ReLU(), nn.Linear(32, 1))
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        M = torch.zeros(self.d_model, self.d_model, device=x.device)
        outputs = torch.zeros_like(x)
        for b in range(x.shape[0]):
            rows = []
            for t in range(x.shape[1]):
                k = F.normalize(self.to_key(x[b, t]), dim=0)
                v = self.to_value(x[b, t])
                predicted = M @ k
                s = torch.sigmoid(self.surprise(torch.cat([v, predicted])))
                M = torch.sigmoid(self.decay) * M + s * torch.outer(v, k)
                rows.append(M @ self.to_query(x[b, t]))
            outputs[b] = torch.stack(rows)
        return outputs


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
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
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
