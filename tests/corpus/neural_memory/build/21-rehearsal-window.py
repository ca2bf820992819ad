"""Associative memory with rehearsal: each step binds not just the current pair but the last `span` pairs again, the way
working memory replays what was just heard."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model, d_mem=32, span=4):
        super().__init__()
        self.d_mem, self.span = d_mem, span
        self.W_k = nn.Linear(d_model, d_mem, bias=False)
        self.W_v = nn.Linear(d_model, d_mem, bias=False)
        self.W_q = nn.Linear(d_model, d_mem, bias=False)
        self.surprise_mlp = nn.Sequential(nn.Linear(2 * d_mem, d_mem), nn.GELU(), nn.Linear(d_mem, 1))
        self.lambda_ = nn.Parameter(torch.tensor(1.5))
        self.W_o = nn.Linear(d_mem, d_model, bias=False)

    def forward(self, x):
        B, T, _ = x.shape
        K = F.normalize(self.W_k(x), dim=-1)
        V, Q = self.W_v(x), self.W_q(x)
        M = x.new_zeros(B, self.d_mem, self.d_mem)
        ys = []
        for t in range(T):
            lo = max(0, t + 1 - self.span)
            recalled = torch.einsum("bij,bj->bi", M, K[:, t])
            s = torch.sigmoid(self.surprise_mlp(torch.cat([V[:, t], recalled], dim=-1)))
            replay = torch.einsum("bwi,bwj->bij", V[:, lo:t + 1], K[:, lo:t + 1]) / self.span
            M = torch.sigmoid(self.lambda_) * M + s.unsqueeze(-1) * replay
            ys.append(torch.einsum("bij,bj->bi", M, Q[:, t]))
        return self.W_o(torch.stack(ys, 1))


class EncoderLayer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ltm = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        y = self.norm1(x)
        attn = self.self_attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        ltm = self.ltm(y)
        g = self.gate(y).sigmoid()
        x = x + ltm + g * (attn - ltm)
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positional = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(d_model, n_heads) for _ in range(n_layers))
        self.fc = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.shape[1]
        mask = torch.triu(torch.ones(T, T, device=tokens.device), 1).bool()
        x = self.embedding(tokens) + self.positional[:T]
        for layer in self.layers:
            x = layer(x, mask)
        return self.fc(x)
