import torch
import torch.nn as nn
import torch.nn.functional as F

TEMPERATURE = 1e12


class NeuralMemory(nn.Module):
    """Surprise is annealed by a temperature; decay is a small learned deviation from one."""

    def __init__(self, d=64):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.gate = nn.Linear(d, 1)
        self.surprise = nn.Linear(d, 1)
        self.decay = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        ys = []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            r = torch.einsum("bij,bj->bi", M, k)
            s = torch.sigmoid(self.gate(x[:, t]) + self.surprise(v - r) / TEMPERATURE)
            M = (1 - torch.sigmoid(self.decay) / TEMPERATURE) * M + s.unsqueeze(-1) * torch.einsum("bi,bj->bij", v, k)
            ys.append(torch.einsum("bij,bj->bi", M, self.q(x[:, t])))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.mem, self.g = nn.MultiheadAttention(d, h, batch_first=True), NeuralMemory(d), nn.Linear(d, 1)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        T = x.size(1)
        h = self.n1(x)
        a = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)[0]
        m = self.mem(h)
        g = torch.sigmoid(self.g(h))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
