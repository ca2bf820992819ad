"""Infini-attention style compressive memory: local attention plus a matrix that is updated segment by segment."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model, segment_len=4):
        super().__init__()
        self.segment_len = segment_len
        self.wq, self.wk, self.wv = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.surprise = nn.Linear(d_model, 1)
        self.decay_logit = nn.Parameter(torch.tensor(2.0))

    @staticmethod
    def feature(x):
        return F.elu(x) + 1.0

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.feature(self.wq(x)), self.feature(self.wk(x)), self.wv(x)
        M = torch.zeros(b, d, d, device=x.device)
        z = torch.full((b, d), 1e-3, device=x.device)
        decay = torch.sigmoid(self.decay_logit)
        outs = []
        for s in range(0, n, self.segment_len):
            qs, ks, vs = (u[:, s : s + self.segment_len] for u in (q, k, v))
            outs.append((qs @ M) / (qs @ z.unsqueeze(-1)))
            predicted = (ks @ M) / (ks @ z.unsqueeze(-1))
            gate = torch.sigmoid(self.surprise(vs - predicted))
            M = decay * M + ks.transpose(1, 2) @ (gate * vs)
            z = decay * z + (gate * ks).sum(1)
        return torch.cat(outs, dim=1)


class InfiniBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.beta = nn.Parameter(torch.zeros(d_model))
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.norm1(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1)).to(x.device)
        local, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        g = torch.sigmoid(self.beta)
        x = x + g * self.memory(h) + (1 - g) * local
        return x + self.mlp(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([InfiniBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
