# %%
import torch, torch.nn as nn, torch.nn.functional as F
sg = torch.sigmoid

# %% memory
class NeuralMemory(nn.Module):
    def __init__(s, d=64):
        super().__init__()
        s.K, s.V = nn.Linear(d, d, False), nn.Linear(d, d, False)
        s.S = nn.Linear(d, d)                      # surprise, per channel
        s.a = nn.Parameter(torch.randn(d) * .5 + 2)  # decay, per value channel
    def forward(s, x):
        B, T, d = x.shape
        M, o, a = torch.zeros(B, d, d, device=x.device), [], sg(s.a)
        for t in range(T):
            k, v = F.normalize(s.K(x[:, t]), dim=-1), s.V(x[:, t])
            r = (M @ k[..., None])[..., 0]         # recall
            w = sg(s.S((v - r).abs())) * v         # big error -> big write
            M = M * a[:, None] + w[:, :, None] * k[:, None, :]
            o += [r]
        return torch.stack(o, 1)

# %% model
class MemoryTransformer(nn.Module):
    def __init__(s, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        D = d_model
        s.E, s.P = nn.Embedding(vocab_size, D), nn.Embedding(max_len, D)
        mk = lambda f: nn.ModuleList(f() for _ in range(n_layers))
        s.n1, s.n2 = mk(lambda: nn.LayerNorm(D)), mk(lambda: nn.LayerNorm(D))
        s.at = mk(lambda: nn.MultiheadAttention(D, n_heads, batch_first=True))
        s.me = mk(lambda: NeuralMemory(D))
        s.ga = mk(lambda: nn.Linear(2 * D, D))
        s.ff = mk(lambda: nn.Sequential(nn.Linear(D, 4 * D), nn.ReLU(), nn.Linear(4 * D, D)))
        s.nf, s.U = nn.LayerNorm(D), nn.Linear(D, vocab_size)
    def forward(s, tokens):
        T = tokens.shape[1]
        x = s.E(tokens) + s.P.weight[:T]
        cm = torch.full((T, T), float('-inf'), device=x.device).triu(1)
        for n1, n2, at, me, ga, ff in zip(s.n1, s.n2, s.at, s.me, s.ga, s.ff):
            h = n1(x)
            A, m = at(h, h, h, attn_mask=cm)[0], me(h)
            g = sg(ga(torch.cat([A, m], -1)))
            x = x + g * A + (1 - g) * m
            x = x + ff(n2(x))
        return s.U(s.nf(x))

# %% smoke
if __name__ == '__main__':
    m = MemoryTransformer(); t = torch.randint(256, (2, 16)); l = m(t)
    F.cross_entropy(l[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward(); print(l.shape)
