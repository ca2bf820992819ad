import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """DeltaNet-style: the prediction error itself is what gets written, so surprise is built in."""

    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.h, self.d = n_heads, d_model // n_heads
        self.proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.step_size = nn.Parameter(torch.full((1, n_heads, 1), 0.5))
        self.gamma = nn.Parameter(torch.full((1, n_heads, 1, 1), 3.0))
        self.o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.proj(x).view(B, T, 3, self.h, self.d).unbind(2)
        k = F.normalize(k, dim=-1)
        S = torch.zeros(B, self.h, self.d, self.d, device=x.device)
        ys = []
        for t in range(T):
            delta = v[:, t] - torch.einsum("bhvk,bhk->bhv", S, k[:, t])
            S = self.gamma.sigmoid() * S + torch.einsum("bhv,bhk->bhvk", self.step_size * delta, k[:, t])
            ys.append(torch.einsum("bhvk,bhk->bhv", S, q[:, t]).reshape(B, C))
        return self.o(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.delta = NeuralMemory(d, h)
        self.gate = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))

    def forward(self, x):
        T = x.shape[1]
        h = self.n1(x)
        causal = nn.Transformer.generate_square_subsequent_mask(T, device=x.device)
        a = self.attn(h, h, h, attn_mask=causal, need_weights=False)[0]
        g = self.gate(h).sigmoid()
        x = x + torch.lerp(a, self.delta(h), g)
        return x + self.mlp(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed.weight.T
