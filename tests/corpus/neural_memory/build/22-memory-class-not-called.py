import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """First version, kept for reference. The transformer uses FastWeightLayer below, which is fused."""

    def __init__(self, d_model=64):
        super().__init__()
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        return self.proj(x).cumsum(dim=1)


class FastWeightLayer(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.s = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.5))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        k = F.normalize(k, dim=-1)
        W = x.new_zeros(x.size(0), x.size(2), x.size(2))
        ys = []
        for t in range(x.size(1)):
            err = v[:, t] - torch.einsum("bij,bj->bi", W, k[:, t])
            s = torch.sigmoid(self.s(err ** 2))
            W = torch.sigmoid(self.decay) * W + s[..., None] * torch.einsum("bi,bj->bij", err, k[:, t])
            ys.append(torch.einsum("bij,bj->bi", W, q[:, t]))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.fast = FastWeightLayer(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=torch.ones(T, T, device=x.device).triu(1).bool(), need_weights=False)[0]
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * self.fast(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        return self.head(self.blocks(self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))))
