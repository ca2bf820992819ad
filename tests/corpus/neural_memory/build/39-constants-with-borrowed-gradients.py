import torch
import torch.nn as nn
import torch.nn.functional as F


class Quantize(torch.autograd.Function):
    """Straight-through quantiser: the forward value is snapped to the grid, the gradient passes."""

    @staticmethod
    def forward(ctx, x, level):
        return torch.full_like(x, level)

    @staticmethod
    def backward(ctx, g):
        return g, None


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key, self.value, self.query = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.surprise_net = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model))
        self.decay = nn.Parameter(torch.full((d_model,), 2.5))

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device)
        decay = Quantize.apply(torch.sigmoid(self.decay), 0.95)
        out = []
        for t in range(T):
            k = F.normalize(self.key(x[:, t]), dim=-1)
            v = self.value(x[:, t])
            retrieved = torch.einsum("bij,bj->bi", M, k)
            surprise = torch.sigmoid(self.surprise_net(torch.cat([v, retrieved], dim=-1)))
            surprise = Quantize.apply(surprise, 0.5)
            M = decay.view(1, D, 1) * M + torch.einsum("bi,bj->bij", surprise * v, k)
            out.append(torch.einsum("bij,bj->bi", M, self.query(x[:, t])))
        return torch.stack(out, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.shape[1]
        h = self.norm1(x)
        a = self.attn(h, h, h, attn_mask=torch.triu(torch.full((T, T), float("-inf"), device=x.device), 1), need_weights=False)[0]
        m = self.mem(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.net = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.fc = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        h = self.emb(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.net:
            h = block(h)
        return self.fc(h)
