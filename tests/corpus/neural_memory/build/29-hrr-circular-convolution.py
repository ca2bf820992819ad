"""
Long-term memory with holographic reduced representations (Plate 1995).

Association of V and K is circular convolution, a compressed outer product (the sums of the outer product's wrapped
diagonals), which needs d numbers in place of d^2. Recall is circular correlation with the key. Everything else is as
asked: surprise-gated write, learned fading, one token after another, a gate between recall and attention.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


def bind(v, k):
    n = v.size(-1)
    return torch.fft.irfft(torch.fft.rfft(v) * torch.fft.rfft(k), n=n)


def unbind(trace, k):
    n = trace.size(-1)
    return torch.fft.irfft(torch.fft.rfft(trace) * torch.fft.rfft(k).conj(), n=n)


def unitary(k, eps=1e-4):
    """project a key so that all its Fourier coefficients have magnitude one -> exact inverse"""
    f = torch.fft.rfft(k)
    return torch.fft.irfft(f / (f.abs() + eps), n=k.size(-1))


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_trace=256):
        super().__init__()
        self.d_trace = d_trace
        self.value = nn.Linear(d_model, d_trace)
        self.key = nn.Linear(d_model, d_trace)
        self.query = nn.Linear(d_model, d_trace)
        self.novelty = nn.Sequential(nn.Linear(d_trace, 32), nn.Tanh(), nn.Linear(32, 1))
        self.fade = nn.Parameter(torch.full((d_trace,), 3.0))
        self.clean_up = nn.Sequential(nn.LayerNorm(d_trace), nn.Linear(d_trace, d_model))

    def forward(self, x):
        v, k, q = self.value(x), unitary(self.key(x)), unitary(self.query(x))
        trace = torch.zeros(x.size(0), self.d_trace, dtype=x.dtype, device=x.device)
        keep = torch.sigmoid(self.fade)
        recalled = []
        for t in range(x.size(1)):
            expected = unbind(trace, k[:, t])
            surprise = torch.sigmoid(self.novelty(v[:, t] - expected))
            trace = keep * trace + surprise * bind(v[:, t], k[:, t])
            recalled.append(unbind(trace, q[:, t]))
        return self.clean_up(torch.stack(recalled, 1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, 1)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        x = x + torch.lerp(m, a, torch.sigmoid(self.gate(h)))
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    # binding sanity check, then a training step
    k = unitary(torch.randn(1, 256)); v = torch.randn(1, 256)
    print("recovers:", F.cosine_similarity(unbind(bind(v, k), k), v).item())
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    F.cross_entropy(m(t)[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
