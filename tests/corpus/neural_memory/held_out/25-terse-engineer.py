import torch, torch.nn as nn, torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.k, self.v, self.q, self.o = (nn.Linear(d, d) for _ in range(4))
        self.novelty = nn.Linear(2 * d, 1)
        self.decay = nn.Parameter(torch.zeros(d) + 4.)

    def forward(self, x):
        B, T, d = x.shape
        k, v, q = F.normalize(self.k(x), dim=-1), self.v(x), self.q(x) / d ** .5
        M, ys = x.new_zeros(B, d, d), []
        for t in range(T):
            seen = (M @ k[:, t, :, None])[..., 0]
            s = self.novelty(torch.cat([v[:, t], seen], -1)).sigmoid()
            M = M * self.decay.sigmoid() + s[..., None] * v[:, t, :, None] * k[:, t, None]
            ys += [(M @ q[:, t, :, None])[..., 0]]
        return self.o(torch.stack(ys, 1))


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.att = nn.MultiheadAttention(d, h, batch_first=True)
        self.mem, self.g = NeuralMemory(d), nn.Linear(d, d)
        self.ff = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        n = self.n1(x)
        m = torch.ones(x.size(1), x.size(1), device=x.device).triu(1).bool()
        a = self.att(n, n, n, attn_mask=m)[0]
        g = self.g(n).sigmoid()
        x = x + g * a + (1 - g) * self.mem(n)
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, ctx=512):
        super().__init__()
        self.e, self.p = nn.Embedding(vocab_size, d_model), nn.Embedding(ctx, d_model)
        self.b = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)))
        self.h = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        return self.h(self.b(self.e(tokens) + self.p.weight[:tokens.size(1)]))


if __name__ == "__main__":
    t = torch.randint(256, (2, 16))
    l = MemoryTransformer()(t)
    F.cross_entropy(l[:, :-1].flatten(0, 1), t[:, 1:].flatten()).backward()
    print(l.shape)
