"""
Long-term memory with bounded activation storage: the stream is cut into chunks, every chunk is run under
torch.utils.checkpoint, and the matrix is handed from chunk to chunk. Inside a chunk tokens go one at a time.
"""
import math

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class NeuralMemory(nn.Module):
    def __init__(self, dim, heads=4, chunk=6):
        super().__init__()
        self.heads, self.hd, self.chunk = heads, dim // heads, chunk
        self.wq = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, dim)
        self.wv = nn.Linear(dim, dim)
        self.wo = nn.Linear(dim, dim)
        self.surprise_weight = nn.Parameter(torch.randn(heads, self.hd, self.hd) / math.sqrt(self.hd))
        self.surprise_bias = nn.Parameter(torch.zeros(heads, self.hd))
        self.decay_logit = nn.Parameter(torch.linspace(1.0, 4.0, heads)[:, None, None])
        self._init()

    @torch.no_grad()
    def _init(self):
        for lin in (self.wq, self.wk, self.wv, self.wo):
            nn.init.xavier_uniform_(lin.weight)
            lin.bias.zero_()

    def _chunk(self, M, q, k, v):
        lam = torch.sigmoid(self.decay_logit)
        ys = []
        for j in range(q.shape[2]):
            kj, vj, qj = k[:, :, j], v[:, :, j], q[:, :, j]
            error = vj - torch.einsum("bhij,bhj->bhi", M, kj)
            s = torch.sigmoid(torch.einsum("bhi,hio->bho", error, self.surprise_weight) + self.surprise_bias)
            M = lam * M + (s * error).unsqueeze(-1) * kj.unsqueeze(-2)
            ys.append(torch.einsum("bhij,bhj->bhi", M, qj))
        return M, torch.stack(ys, dim=2)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (w(x).view(b, t, self.heads, self.hd).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        k = nn.functional.normalize(k, dim=-1)
        M = x.new_zeros(b, self.heads, self.hd, self.hd)
        parts = []
        for lo in range(0, t, self.chunk):
            hi = min(lo + self.chunk, t)
            piece = (M, q[:, :, lo:hi], k[:, :, lo:hi], v[:, :, lo:hi])
            M, y = checkpoint(self._chunk, *piece, use_reentrant=False) if self.training else self._chunk(*piece)
            parts.append(y)
        return self.wo(torch.cat(parts, dim=2).transpose(1, 2).reshape(b, t, d))


class Attention(nn.Module):
    def __init__(self, dim, heads, max_len):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer("tril", torch.tril(torch.ones(max_len, max_len, dtype=torch.bool)), persistent=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        w = (q @ k.mT) / math.sqrt(d // self.heads)
        w = w.masked_fill(~self.tril[:t, :t], float("-inf")).softmax(-1)
        return self.out((w @ v).transpose(1, 2).reshape(b, t, d))


class Layer(nn.Module):
    def __init__(self, dim, heads, max_len):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mem = Attention(dim, heads, max_len), NeuralMemory(dim, heads)
        self.g = nn.Sequential(nn.Linear(dim, dim // 4), nn.ReLU(), nn.Linear(dim // 4, dim), nn.Sigmoid())
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        h = self.n1(x)
        g = self.g(h)
        x = x + self.mem(h) * g + self.attn(h) * (1 - g)
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=400, d_model=64, n_heads=4, n_layers=2, max_len=256):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads, max_len) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
