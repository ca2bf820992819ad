import torch, torch.nn as nn, torch.nn.functional as F

class NeuralMemory(nn.Module):
    """M is an exponential moving average: one learned rate says how much of it is replaced by the present trace."""
    def __init__(self, d=64):
        super().__init__()
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.q = nn.Linear(d, d)
        self.surprise = nn.Sequential(nn.LayerNorm(2 * d), nn.Linear(2 * d, d), nn.Tanh(), nn.Linear(d, 1))
        self.rate = nn.Parameter(torch.tensor(-1.5))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        M = torch.zeros(x.shape[0], x.shape[2], x.shape[2], device=x.device)
        rate = self.rate.sigmoid()
        out = torch.empty(0, *x.shape[::2], device=x.device)
        for xt in x.transpose(0, 1):
            k, v, q = F.normalize(self.k(xt), dim=-1), self.v(xt), self.q(xt)
            recall = torch.einsum('bij,bj->bi', M, k)
            s = torch.sigmoid(self.surprise(torch.cat([v, recall], -1)))
            trace = self.scale * torch.einsum('bi,bj->bij', s * v, k)
            M = torch.lerp(M, trace, rate)             # (1 - rate) * M + rate * trace
            out = torch.cat([out, torch.einsum('bij,bj->bi', M, q)[None]])
        return out.transpose(0, 1)

class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.a_norm, self.f_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.mem = NeuralMemory(d)
        self.gate = nn.Linear(2 * d, d)
        self.ff = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d))

    def forward(self, x):
        n = x.shape[1]
        h = self.a_norm(x)
        attn, _ = self.attn(h, h, h, is_causal=True, need_weights=False,
                            attn_mask=nn.Transformer.generate_square_subsequent_mask(n))
        mem = self.mem(h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], dim=-1)))
        x = x + torch.addcmul(mem, g, attn - mem)
        return x + self.ff(self.f_norm(x))

class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.wpe = nn.Embedding(max_len, d_model)
        self.h = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for b in self.h: x = b(x)
        return self.head(self.f(x))
