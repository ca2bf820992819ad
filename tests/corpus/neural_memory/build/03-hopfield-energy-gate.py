import math

import torch
import torch.nn as nn
import torch.nn.functional as F

# Hebb / Hopfield picture: a pattern pair (k, v) has energy  E = 1/2 |v|^2 - v.(W k)  under the synapses W.
# Low energy  -> W already completes k to v, nothing to learn.
# High energy -> the pair is novel, so the synapses should move a lot.
# Turning energy into "how much plasticity" is left to a gain and a threshold per head which are trained.


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, heads=4):
        super().__init__()
        self.heads = heads
        self.p = d_model // heads
        self.pre = nn.Linear(d_model, d_model)      # presynaptic activity, k
        self.post = nn.Linear(d_model, d_model)     # postsynaptic activity, v
        self.cue = nn.Linear(d_model, d_model)      # q
        self.gain = nn.Parameter(torch.full((heads,), 2.0))
        self.threshold = nn.Parameter(torch.full((heads,), 0.25))
        self.leak = nn.Parameter(torch.arange(1, heads + 1).float())
        self.mix = nn.Linear(d_model, d_model)

    def split(self, z):
        b, t, d = z.shape
        return z.reshape(b, t, self.heads, self.p).transpose(1, 2).reshape(b * self.heads, t, self.p)

    def plasticity(self, energy):
        n = energy.numel() // self.heads
        gain, theta = self.gain.repeat(n), self.threshold.repeat(n)
        return torch.sigmoid(gain * (energy - theta))

    def forward(self, x):
        b, t, d = x.shape
        k = self.split(self.pre(x)).tanh() / math.sqrt(self.p)
        v = self.split(self.post(x)).tanh()
        q = self.split(self.cue(x)).tanh() / math.sqrt(self.p)
        keep = torch.sigmoid(self.leak).repeat(b)[:, None, None]
        W = torch.zeros(b * self.heads, self.p, self.p, device=x.device, dtype=x.dtype)
        reads = torch.empty_like(v).split(1, dim=1)
        reads = list(reads)
        for i in range(t):
            pre, post = k[:, i, :, None], v[:, i, :, None]
            completion = torch.bmm(W, pre)
            energy = (0.5 * post.pow(2) - post * completion).sum((1, 2)) / self.p
            eta = self.plasticity(energy)[:, None, None]
            W = torch.baddbmm(keep * W, eta * post, pre.mT)
            # one relaxation step of the network from the cue
            reads[i] = torch.bmm(W, q[:, i, :, None]).mT
        y = torch.cat(reads, dim=1)
        y = y.reshape(b, self.heads, t, self.p).transpose(1, 2).reshape(b, t, d)
        return self.mix(y)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln_m = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.trust = nn.Linear(d_model, 1)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(self.ln_m(x + a))           # memory looks at what attention has added
        w = torch.sigmoid(self.trust(x + a))
        x = x + torch.lerp(m, a, w)                 # w -> attention, 1 - w -> memory
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
    F.cross_entropy(m(t)[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    for n, p in m.named_parameters():
        assert p.grad is not None, n
