import torch, torch.nn as nn, torch.nn.functional as F

class NeuralMemory(nn.Module):
    def __init__(s, d=64):
        super().__init__()
        s.qkv, s.o = nn.Linear(d, 3*d, bias=False), nn.Linear(d, d, bias=False)
        s.sg = nn.Bilinear(d, d, 1)                    # surprise score from (value, error)
        s.rate = nn.Parameter(torch.tensor(-2.))       # keep = exp(-softplus(rate))

    def forward(s, x):
        q, k, v = s.qkv(x).chunk(3, -1)
        q, k = F.normalize(F.elu(q)+1, dim=-1), F.normalize(F.elu(k)+1, dim=-1)
        keep, M, ys = torch.exp(-F.softplus(s.rate)), x.new_zeros(len(x), x.size(-1), x.size(-1)), []
        for t in range(x.size(1)):
            e = v[:, t] - (M @ k[:, t, :, None])[..., 0]
            M = keep*M + (torch.sigmoid(s.sg(v[:, t], e))*e)[..., None] @ k[:, t, None, :]
            ys += [(M @ q[:, t, :, None])[..., 0]]
        return s.o(torch.stack(ys, 1))

class Block(nn.Module):
    def __init__(s, d, h):
        super().__init__()
        s.h, s.n1, s.n2 = h, nn.LayerNorm(d), nn.LayerNorm(d)
        s.qkv, s.o, s.mem = nn.Linear(d, 3*d), nn.Linear(d, d), NeuralMemory(d)
        s.g = nn.Parameter(torch.zeros(d))             # input-independent mix, one a channel
        s.ff = nn.Sequential(nn.Linear(d, 4*d), nn.GELU(), nn.Linear(4*d, d))

    def forward(s, x):
        B, T, D = x.shape; y = s.n1(x)
        q, k, v = (z.view(B, T, s.h, D//s.h).transpose(1, 2) for z in s.qkv(y).chunk(3, -1))
        a = s.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D))
        g = s.g.sigmoid()
        x = x + g*a + (1-g)*s.mem(y)
        return x + s.ff(s.n2(x))

class MemoryTransformer(nn.Module):
    def __init__(s, vocab_size=256, d_model=64, n_heads=4, n_layers=3, max_len=512):
        super().__init__()
        s.e, s.p = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        s.b = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)))
        s.f = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(s, t): return s.f(s.b(s.e(t) + s.p.weight[:t.size(1)]))
