import torch, torch.nn as nn

# keep every token as [B, 1, D] so there's no squeeze/unsqueeze dance; M is [B, Dk, Dv]

class NeuralMemory(nn.Module):
    def __init__(self, d, h=32):
        super().__init__()
        self.h = h
        self.k = nn.Sequential(nn.Linear(d, h), nn.Softmax(-1))
        self.q = nn.Sequential(nn.Linear(d, h), nn.Softmax(-1))
        self.v = nn.Linear(d, h)
        self.judge = nn.Linear(h, h)
        self.keep = nn.Parameter(torch.rand(h, 1) * 2 + 1)
        self.o = nn.Linear(h, d)

    def forward(self, x):
        M = x.new_zeros(len(x), self.h, self.h)
        ys = []
        for tok in x.split(1, dim=1):
            k, v = self.k(tok), self.v(tok)
            miss = v - k @ M
            M = self.keep.sigmoid() * M + k.mT @ (self.judge(miss).sigmoid() * miss)
            ys += [self.q(tok) @ M]
        return self.o(torch.cat(ys, dim=1))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.nh = n_heads
        self.e, self.p = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        rep = lambda f: nn.ModuleList(f() for _ in range(n_layers))
        self.n1, self.n2 = rep(lambda: nn.LayerNorm(d_model)), rep(lambda: nn.LayerNorm(d_model))
        self.att = rep(lambda: nn.MultiheadAttention(d_model, n_heads, batch_first=True))
        self.mem = rep(lambda: NeuralMemory(d_model))
        self.gate = rep(lambda: nn.Linear(d_model, 1))
        self.ff = rep(lambda: nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model)))
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.shape[1]
        no = torch.ones(T, T, device=tokens.device).triu(1).bool()
        x = self.e(tokens) + self.p.weight[:T]
        for n1, n2, att, mem, gate, ff in zip(self.n1, self.n2, self.att, self.mem, self.gate, self.ff):
            y = n1(x)
            a = att(y, y, y, attn_mask=no, need_weights=False)[0]
            g = gate(y).sigmoid()
            x = x + a * g + mem(y) * (1 - g)
            x = x + ff(n2(x))
        return self.out(x)
