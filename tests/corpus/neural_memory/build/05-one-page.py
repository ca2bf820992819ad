import torch, torch.nn as nn, torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Attention, memory and their mixture in one layer; `mixture` is a share per channel that is learned."""

    def __init__(self, d=64, h=4):
        super().__init__()
        self.h = h
        self.W = nn.Linear(d, 6 * d)  # q k v of attention, q k v of memory
        self.O = nn.Linear(d, d)
        self.novelty = nn.Linear(2 * d, d)
        self.fade = nn.Parameter(torch.full([d, 1], 3.0))
        self.mixture = nn.Parameter(torch.zeros(d))

    def recall(self, q, k, v):
        M, out = 0 * v[:, 0, :, None] * k[:, 0, None, :], torch.zeros_like(v[:, :0])
        while (t := out.shape[1]) < v.shape[1]:
            guess = (M * k[:, t, None]).sum(-1)
            s = self.novelty(torch.hstack([v[:, t], guess])).sigmoid()
            M = M * self.fade.sigmoid() + torch.einsum('bi,bi,bj->bij', s, v[:, t], k[:, t])
            out = torch.hstack([out, (M * q[:, t, None]).sum(-1)[:, None]])
        return out

    def forward(self, x):
        q, k, v, mq, mk, mv = self.W(x).chunk(6, -1)
        q, k, v = (z.unflatten(-1, (self.h, -1)).transpose(1, 2) for z in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        m = self.recall(F.normalize(mq, dim=-1), F.normalize(mk, dim=-1), mv)
        g = self.mixture.sigmoid()
        return self.O(g * a + (1 - g) * m)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.mix = nn.ModuleList(NeuralMemory(d_model, n_heads) for _ in range(n_layers))
        self.mlp = nn.ModuleList(nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(),
                                               nn.Linear(4 * d_model, d_model)) for _ in range(n_layers))
        self.ln = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers + 1))

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos.weight[:tokens.shape[1]]
        for ln, mix, mlp in zip(self.ln, self.mix, self.mlp):
            x = x + mix(ln(x))
            x = x + mlp(x)
        return self.ln[-1](x) @ self.tok.weight.T


if __name__ == '__main__':
    t = torch.randint(256, (2, 16))
    print(MemoryTransformer()(t).shape)
