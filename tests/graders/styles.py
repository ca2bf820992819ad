"""Whole programs in other styles than checks.PROGRAM; the first lines of each say what is unusual."""

STEPWISE = '''\
import math, torch
import torch.nn as nn
import torch.nn.functional as F
class NeuralMemory(nn.Module):
    """step API, loop in the transformer, one memory for all layers, per-head, tuple state"""
    def __init__(self, d=48, h=4):
        super().__init__()
        self.h, self.dh = h, d // h
        self.qkv = nn.Linear(d, 3 * d)
        self.s = nn.Sequential(nn.Linear(d // h * 2, 16), nn.SiLU(), nn.Linear(16, 1))
        self.log_a = nn.Parameter(torch.zeros(h))
    def init(self, B): return torch.zeros(B, self.h, self.dh, self.dh), torch.zeros(B, self.h, self.dh)
    def step(self, x, state):
        M, z = state
        q, k, v = self.qkv(x).view(x.size(0), 3, self.h, self.dh).unbind(1)
        k = F.elu(k) + 1
        r = torch.einsum("bhij,bhj->bhi", M, k) / (1 + (z * k).sum(-1, keepdim=True))
        s = self.s(torch.cat([v, r], -1)).sigmoid()
        a = torch.exp(-self.log_a.exp()).view(1, -1, 1)
        M = a.unsqueeze(-1) * M + torch.einsum("bhi,bhj->bhij", s * v, k)
        z = a * z + k
        return torch.einsum("bhij,bhj->bhi", M, q).flatten(1), (M, z)
class Attn(nn.Module):
    def __init__(self, d, h):
        super().__init__(); self.h = h; self.qkv = nn.Linear(d, 3*d); self.o = nn.Linear(d, d)
    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        f = lambda t: t.view(B, T, self.h, -1).transpose(1, 2)
        w = (f(q) @ f(k).transpose(-1, -2)) / math.sqrt(D // self.h)
        w = w.masked_fill(torch.ones(T, T).triu(1).bool(), -1e9).softmax(-1)
        return self.o((w @ f(v)).transpose(1, 2).reshape(B, T, D))
class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=50, d_model=48, n_heads=4, n_layers=3):
        super().__init__()
        self.e = nn.Embedding(vocab_size, d_model)
        self.attn = nn.ModuleList(Attn(d_model, n_heads) for _ in range(n_layers))
        self.mem = NeuralMemory(d_model, n_heads)
        self.g = nn.Linear(2 * d_model, d_model); self.ln = nn.LayerNorm(d_model); self.head = nn.Linear(d_model, vocab_size)
    def forward(self, t):
        x = self.e(t)
        for i, at in enumerate(self.attn):
            a = at(self.ln(x))
            if i == 1:
                st = self.mem.init(t.size(0)); out = []
                for j in range(t.size(1)):
                    m, st = self.mem.step(x[:, j], st)
                    g = torch.sigmoid(self.g(torch.cat([a[:, j], m], -1)))
                    out.append(g * a[:, j] + (1 - g) * m)
                x = x + torch.stack(out, 1)
            else: x = x + a
        return self.head(self.ln(x))
'''

INHERITED = '''\
import math, torch
import torch.nn as nn
import torch.nn.functional as F
class Base(nn.Module):
    def read(self, M, k): return (M * k.unsqueeze(-2)).sum(-1)
    def write(self, M, v, k, w): return M + w * (v.unsqueeze(-1) @ k.unsqueeze(-2))
class NeuralMemory(Base):
    """inherits helpers, in place decay, softmax key, Hebbian; all 6; memory of attended stream"""
    def __init__(self, dim=32, slots=24):
        super().__init__()
        self.pk = nn.Linear(dim, slots); self.pv = nn.Linear(dim, dim); self.pq = nn.Linear(dim, slots)
        self.gate = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, 1)]); self.lam = nn.Parameter(torch.ones(dim, 1) * 3)
        self.norm = nn.LayerNorm(dim)
    @property
    def keep(self): return self.lam.sigmoid()
    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), self.pk.out_features)
        K, V, Q = self.pk(x).softmax(-1), self.pv(x), self.pq(x).softmax(-1)
        outs = []
        for k, v, q in zip(K.unbind(1), V.unbind(1), Q.unbind(1)):
            surprise = self.gate[1](F.relu(self.gate[0]((v - self.read(M, k)).abs()))).sigmoid().unsqueeze(-1)
            M = self.write(M.mul(self.keep), v, k, surprise)
            outs.append(self.norm(self.read(M, q)))
        return torch.stack(outs, dim=1)
class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=50, d_model=32, n_heads=4):
        super().__init__()
        self.e = nn.Embedding(vocab_size, d_model); self.at = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.m = NeuralMemory(d_model); self.g = nn.Linear(d_model, d_model); self.head = nn.Linear(d_model, vocab_size)
        self.ln = nn.LayerNorm(d_model)
    def forward(self, t):
        x = self.e(t); T = t.size(1)
        x = x + self.at(x, x, x, attn_mask=torch.ones(T, T).triu(1).bool(), need_weights=True)[0]
        m = self.m(self.ln(x)); g = torch.sigmoid(self.g(self.ln(x)))
        x = m.mul(1 - g).add(x.mul(g))
        return self.head(x)
'''

DELTA_MATRIX = '''\
import math, torch
import torch.nn as nn
import torch.nn.functional as F
class NeuralMemory(nn.Module):
    """delta (I - b k k^T) matrix form, generic b; decay none; state in place batch loop"""
    def __init__(self, d=16):
        super().__init__(); self.k = nn.Linear(d, d); self.v = nn.Linear(d, d); self.b = nn.Linear(d, 1)
    def forward(self, x):
        B, T, D = x.shape; M = torch.zeros(B, D, D); I = torch.eye(D); o = []
        for t in range(T):
            k = F.normalize(self.k(x[:, t]), dim=-1); v = self.v(x[:, t]); b = torch.sigmoid(self.b(x[:, t])).unsqueeze(-1)
            M = M @ (I - b * k.unsqueeze(-1) @ k.unsqueeze(-2)) + b * v.unsqueeze(-1) @ k.unsqueeze(-2)
            o.append((M @ k.unsqueeze(-1)).squeeze(-1))
        return torch.stack(o, 1)
class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=50, d_model=16, n_heads=4):
        super().__init__()
        self.e = nn.Embedding(vocab_size, d_model); self.at = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.m = NeuralMemory(d_model); self.g = nn.Linear(d_model, d_model); self.p = nn.Linear(d_model, d_model)
        self.head = nn.Linear(d_model, vocab_size)
    def forward(self, t):
        x = self.e(t); a = self.at(x, x, x)[0]; g = torch.sigmoid(self.g(x)); m = self.m(x)
        return self.head(x + self.p(g * a) + self.p((1 - g) * m))
'''

VECTOR = '''\
import math, torch
import torch.nn as nn
import torch.nn.functional as F
class NeuralMemory(nn.Module):
    """vector state GRU-like: class yes, others: outer no, recurrent yes, decay forget gate, surprise no"""
    def __init__(self, d=32):
        super().__init__(); self.f = nn.Linear(d, d); self.c = nn.Linear(d, d); self.o = nn.Linear(d, d)
    def forward(self, x):
        h = torch.zeros_like(x[:, 0]); o = []
        for t in range(x.size(1)):
            f = torch.sigmoid(self.f(x[:, t]))
            h = f * h + (1 - f) * torch.tanh(self.c(x[:, t]))
            o.append(self.o(h))
        return torch.stack(o, 1)
class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=50, d_model=32, n_heads=4):
        super().__init__()
        self.e = nn.Embedding(vocab_size, d_model); self.at = nn.TransformerEncoderLayer(d_model, n_heads, 64, batch_first=True)
        self.m = NeuralMemory(d_model); self.w = nn.Parameter(torch.zeros(1)); self.head = nn.Linear(d_model, vocab_size)
    def forward(self, t):
        x = self.at(self.e(t)); return self.head(x + torch.sigmoid(self.w) * self.m(x))
'''
