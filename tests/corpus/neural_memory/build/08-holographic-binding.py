import torch
import torch.nn as nn
import torch.nn.functional as F

# Holographic reduced representations (Plate 1995): a pair is bound by circular convolution, and unbound by circular
# correlation. It is a compressed outer product (the sums over its wrapped diagonals), so the trace of the memory stays
# one vector per head however many pairs it holds.


def bind(k, v):
    return torch.fft.irfft(torch.fft.rfft(k) * torch.fft.rfft(v), n=k.size(-1))


def unbind(trace, k):
    return torch.fft.irfft(torch.fft.rfft(trace) * torch.fft.rfft(k).conj(), n=k.size(-1))


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=2):
        super().__init__()
        self.h, self.d = n_heads, d_model // n_heads
        self.kvq = nn.Linear(d_model, 3 * d_model)
        self.judge = nn.Sequential(nn.Linear(2 * self.d, self.d), nn.SiLU(), nn.Linear(self.d, 1))
        self.forget = nn.Parameter(torch.linspace(2.0, 5.0, n_heads).unsqueeze(-1))
        self.clean = nn.Linear(d_model, d_model)  # clean-up after noisy unbinding

    def forward(self, x):
        B, T, D = x.shape
        k, v, q = self.kvq(x).view(B, T, self.h, 3, self.d).unbind(3)
        k, q = F.normalize(k, dim=-1), F.normalize(q, dim=-1)
        keep = torch.sigmoid(self.forget)
        trace = x.new_zeros(B, self.h, self.d)
        ys = []
        for t in range(T):
            retrieved = unbind(trace, k[:, t])
            surprise = torch.sigmoid(self.judge(torch.cat([v[:, t] - retrieved, retrieved], -1)))
            trace = keep * trace + surprise * bind(k[:, t], v[:, t])
            ys.append(unbind(trace, q[:, t]).flatten(1))
        return self.clean(torch.stack(ys, 1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.mem(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], -1)))
        x = x + torch.lerp(m, a, g)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
