import torch
from torch import nn


class NeuralMemory(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.Q, self.K, self.V = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.surprise = nn.Linear(d, d)
        self.retain = nn.Parameter(torch.zeros(d, 1) + 2)

    def forward(self, x):
        M = x.new_zeros(len(x), x.size(-1), x.size(-1))
        ys = []
        for xt in torch.unbind(x, 1):
            k, v, q = torch.softmax(self.K(xt), -1), self.V(xt), torch.softmax(self.Q(xt), -1)
            expected = (M @ k[..., None])[..., 0]
            M = torch.sigmoid(self.retain) * M + v[..., None] @ k[:, None]
            read = (M @ q[..., None])[..., 0]
            surprise = torch.sigmoid(self.surprise(v - expected))
            ys.append(surprise * read)          # surprising moments speak louder
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.mem = nn.MultiheadAttention(d, h, batch_first=True), NeuralMemory(d)
        self.gate, self.ff = nn.Linear(d, 1), nn.Sequential(nn.Linear(d, 3 * d), nn.ReLU(), nn.Linear(3 * d, d))

    def forward(self, x, mask):
        y = self.norm1(x)
        a, g = self.attn(y, y, y, attn_mask=mask)[0], torch.sigmoid(self.gate(y))
        x = x + g * a + (1 - g) * self.mem(y)
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.ones(T, T, device=tokens.device).triu(1).bool()
        x = self.tok(tokens) + self.pos.weight[:T]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)
