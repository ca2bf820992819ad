import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """A hypernetwork writes the memory: it emits the whole update matrix from the token."""

    def __init__(self, d_model=48, d_mem=12):
        super().__init__()
        self.d_mem = d_mem
        self.down = nn.Linear(d_model, d_mem)
        self.addr = nn.Linear(d_model, d_mem)
        self.writer = nn.Sequential(nn.Linear(d_model, 64), nn.ReLU(), nn.Linear(64, d_mem * d_mem))
        self.novelty = nn.Sequential(nn.Linear(2 * d_mem, 16), nn.ReLU(), nn.Linear(16, 1))
        self.log_decay = nn.Parameter(torch.tensor(-3.0))
        self.up = nn.Linear(d_mem, d_model)

    def forward(self, x):
        B = x.size(0)
        state = torch.zeros(B, self.d_mem, self.d_mem, device=x.device)
        ys = []
        for x_t in x.unbind(1):
            addr = F.normalize(self.addr(x_t), dim=-1)
            actual = self.down(x_t)
            recalled = torch.einsum("bij,bj->bi", state, addr)
            gate = torch.sigmoid(self.novelty(torch.cat([actual, recalled], -1)))
            delta = self.writer(x_t).view(B, self.d_mem, self.d_mem)
            state = torch.exp(-F.softplus(self.log_decay)) * state + gate[..., None] * delta
            ys.append(self.up(torch.einsum("bij,bj->bi", state, addr)))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.ln_a, self.ln_b = nn.LayerNorm(d), nn.LayerNorm(d)
        self.sa = nn.MultiheadAttention(d, h, batch_first=True)
        self.nm = NeuralMemory(d)
        self.lin = nn.Linear(d, 1)
        self.ff = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x):
        T, h = x.size(1), self.ln_a(x)
        a = self.sa(h, h, h, attn_mask=nn.Transformer.generate_square_subsequent_mask(T, device=x.device))[0]
        m = self.nm(h)
        g = self.lin(a - m).sigmoid()
        x = x + m + g * (a - m)
        return x + self.ff(self.ln_b(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=48, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.e, self.p = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.b = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.o = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.e(tokens) + self.p(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.b:
            x = b(x)
        return self.o(x)
