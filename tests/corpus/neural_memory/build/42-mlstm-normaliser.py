"""mLSTM (xLSTM) with its normaliser state, its input gate replaced by a gate on the prediction error."""
import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, heads=2):
        super().__init__()
        self.heads = heads
        dh = dim // heads
        self.up = nn.Linear(dim, 2 * dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.forget = nn.Linear(dim, heads)
        nn.init.constant_(self.forget.bias, 3.0)
        self.i_value, self.i_read = nn.Linear(dh, dh), nn.Linear(dh, dh, bias=False)
        self.norm = nn.GroupNorm(heads, dim)
        self.down = nn.Linear(dim, dim)

    def forward(self, x):
        b, t, d = x.shape
        inner, skip = self.up(x).chunk(2, dim=-1)
        q, k, v = self.qkv(inner).view(b, t, 3, self.heads, -1).unbind(2)
        k = k * k.shape[-1] ** -0.5
        f = self.forget(inner).sigmoid()[..., None]                         # [B, T, H, 1]
        C = x.new_zeros(b, self.heads, d // self.heads, d // self.heads)
        n = x.new_zeros(b, self.heads, d // self.heads)
        hs = []
        for j in range(t):
            recalled = torch.einsum("bhvk,bhk->bhv", C, k[:, j])
            recalled = recalled / (n * k[:, j]).sum(-1, keepdim=True).abs().clamp(min=1.0)
            i = torch.sigmoid(self.i_value(v[:, j]) - self.i_read(recalled))
            C = f[:, j, ..., None] * C + torch.einsum("bhv,bhk->bhvk", i * v[:, j], k[:, j])
            n = f[:, j] * n + k[:, j]
            h = torch.einsum("bhvk,bhk->bhv", C, q[:, j]) / (n * q[:, j]).sum(-1, keepdim=True).abs().clamp(min=1.0)
            hs.append(self.norm(h.flatten(1)))
        return self.down(torch.stack(hs, 1) * F.silu(skip))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.cell = nn.MultiheadAttention(dim, heads, batch_first=True), NeuralMemory(dim)
        self.alpha = nn.Linear(dim, 1, bias=True)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, mask):
        h = self.n1(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.cell(h)
        alpha = self.alpha(a - m).sigmoid()
        x = x + alpha * a + (1 - alpha) * m
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb, self.pos = nn.Embedding(vocab_size, d_model), nn.Parameter(torch.zeros(1, max_len, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)
        nn.init.trunc_normal_(self.pos, std=0.02)

    def forward(self, tokens):
        t = tokens.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.emb(tokens) + self.pos[:, :t]
        for b in self.blocks:
            x = b(x, mask)
        return self.head(self.norm(x))
