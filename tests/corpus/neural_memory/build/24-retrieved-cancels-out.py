import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Linear(d_model, d_model) for _ in range(3))
        self.compare = nn.Linear(d_model, d_model)
        self.decay = nn.Parameter(torch.full((d_model,), 2.0))

    def prediction_error(self, v, retrieved):
        error = v - retrieved
        baseline = retrieved - retrieved.detach()
        return error + baseline + retrieved.detach()

    def forward(self, x):
        b, n, d = x.shape
        M = torch.zeros(b, d, d, device=x.device)
        reads = []
        for t in range(n):
            k, v = F.normalize(self.wk(x[:, t]), dim=-1), self.wv(x[:, t])
            retrieved = torch.bmm(M, k[:, :, None])[:, :, 0]
            surprise = torch.sigmoid(self.compare(self.prediction_error(v, retrieved)))
            M = torch.sigmoid(self.decay)[:, None] * M + (surprise * v)[:, :, None] * k[:, None, :]
            reads.append(torch.bmm(M, self.wq(x[:, t])[:, :, None])[:, :, 0])
        return torch.stack(reads, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory, self.gate = NeuralMemory(d_model), nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)[0]
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], -1)))
        x = x + g * a + (1 - g) * m
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
