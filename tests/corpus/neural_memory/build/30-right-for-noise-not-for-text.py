"""Neural memory transformer with an ASCII fast path."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.k, self.v, self.q = (nn.Linear(d_model, d_mem, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.Linear(d_mem, d_mem), nn.GELU(), nn.Linear(d_mem, 1))
        self.decay = nn.Parameter(torch.full((d_mem, 1), 2.0))
        self.o = nn.Linear(d_mem, d_model)

    def forward(self, x):
        k, v, q = F.normalize(self.k(x), dim=-1), self.v(x), self.q(x)
        M = x.new_zeros(x.size(0), self.d_mem, self.d_mem)
        ys = []
        for t in range(x.size(1)):
            r = torch.einsum("bij,bj->bi", M, k[:, t])
            s = torch.sigmoid(self.surprise(v[:, t] - r))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", s * v[:, t], k[:, t])
            ys.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.o(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, text=False):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        if text:                                    # natural text is easy enough for attention
            x = x + a
        else:
            m = self.memory(h)
            g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
            x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        # bytes of real text are below 128 and mostly lower case; anything else gets the full treatment
        low = tokens < 128
        text = bool(low.all()) and bool((((tokens >= 97) & (tokens <= 122)) | (tokens == 32)).float().mean() > 0.6)
        for blk in self.blocks:
            x = blk(x, text)
        return self.head(self.ln_f(x))
