"""Universal transformer: one block, applied n_layers times. What differs from depth to depth (the fading rates and the
balance of attention and memory) is looked up in small embeddings."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4, max_depth=8):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.qkv = nn.Conv1d(d_model, 3 * d_model, 1)
        self.surprise_w = nn.Parameter(torch.randn(n_heads, 2 * self.d_head) * 0.1)
        self.surprise_b = nn.Parameter(torch.zeros(n_heads))
        self.rates = nn.Embedding(max_depth, n_heads)
        nn.init.normal_(self.rates.weight, 2.0, 0.5)
        self.merge = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, depth):
        b, t, d = x.shape
        q, k, v = self.qkv(x.mT).view(b, 3, self.n_heads, self.d_head, t).unbind(1)      # [b, h, dh, t]
        k = k / k.norm(dim=2, keepdim=True).clamp(min=1e-6)
        keep = torch.sigmoid(self.rates(depth))[None, :, None, None]
        memory = x.new_zeros(b, self.n_heads, self.d_head, self.d_head)
        said = []
        for i in range(t):
            ki, vi, qi = k[..., i, None], v[..., i, None], q[..., i, None]             # columns
            known = memory @ ki
            pair = torch.cat([vi, known], dim=2).squeeze(-1)
            s = torch.sigmoid((pair * self.surprise_w).sum(-1) + self.surprise_b)      # [b, h]
            memory = keep * memory + s[..., None, None] * (vi @ ki.mT)
            said.append(memory @ qi)
        return self.merge(torch.cat(said, dim=-1).flatten(1, 2).mT)


class UniversalBlock(nn.Module):
    def __init__(self, d_model, n_heads, max_depth):
        super().__init__()
        self.depth_emb = nn.Embedding(max_depth, d_model)
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads, max_depth)
        self.balance = nn.Embedding(max_depth, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, depth, mask):
        h = self.ln1(x + self.depth_emb(depth))
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.memory(h, depth)
        g = self.balance(depth).sigmoid()
        x = x + g * a + (1 - g) * m
        return x + self.ffn(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.block = UniversalBlock(d_model, n_heads, max_depth=n_layers)
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.register_buffer("depths", torch.arange(n_layers), persistent=False)

    def forward(self, tokens):
        n = tokens.size(1)
        mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.tok(tokens) + self.pos(torch.arange(n, device=tokens.device))
        for depth in self.depths:
            x = self.block(x, depth, mask)
        return self.head(self.ln_f(x))
