import torch
import torch.nn as nn


class SurpriseGate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim + 1, dim)

    def forward(self, actual, predicted):
        similarity = torch.cosine_similarity(actual, predicted, dim=-1).unsqueeze(-1)
        return torch.sigmoid(self.fc(torch.cat([actual - predicted, similarity], -1)))


class NeuralMemory(nn.Module):
    """Hebbian memory with a learned starting matrix. Each token reads first and writes afterwards."""

    def __init__(self, dim=64):
        super().__init__()
        self.M0 = nn.Parameter(torch.randn(dim, dim) * 0.01)
        self.projections = nn.ModuleList([nn.Linear(dim, dim, bias=False) for _ in "qkv"])
        self.gate = SurpriseGate(dim)
        self.decay = nn.Parameter(torch.logit(torch.rand(dim, dim) * 0.09 + 0.9))
        self.scale = dim ** -0.5

    def forward(self, x):
        q, k, v = [p(x) for p in self.projections]
        k = k * self.scale
        M = self.M0.expand(x.shape[0], -1, -1)
        y = []
        for t in range(x.shape[1]):
            y.append(torch.einsum("bij,bj->bi", M, q[:, t]))
            predicted = torch.einsum("bij,bj->bi", M, k[:, t])
            s = self.gate(v[:, t], predicted)
            M = self.decay.sigmoid() * M + torch.einsum("bi,bi,bj->bij", s, v[:, t], k[:, t])
        return torch.stack(y, dim=1)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x):
        n = x.shape[1]
        mask = torch.full((n, n), float("-inf"), device=x.device).triu(1)
        return self.mha(x, x, x, attn_mask=mask, need_weights=False)[0]


class Fuse(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attention, self.memory = Attention(dim, 4), NeuralMemory(dim)
        self.g = nn.Linear(dim, 1)

    def forward(self, x):
        g = torch.sigmoid(self.g(x))
        return torch.lerp(self.attention(x), self.memory(x), g)


class Residual(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(dim), inner

    def forward(self, x):
        return x + self.inner(self.norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        layers = []
        for _ in range(n_layers):
            layers.append(Residual(d_model, Fuse(d_model)))
            layers.append(Residual(d_model, nn.Sequential(nn.Linear(d_model, 256), nn.GELU(), nn.Linear(256, d_model))))
        self.embed, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.net = nn.Sequential(*layers, nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        return self.net(self.embed(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device)))
