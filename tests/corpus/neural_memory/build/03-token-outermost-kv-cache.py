"""Streaming formulation: the model consumes one token at a time through all layers.

Training and decoding run the same code. Attention keeps a cache of its keys and values for the current call, the long
term memory keeps one matrix per sequence.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class CachedAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = [nn.Linear(dim, dim) for _ in range(4)]

    def forward(self, x, cache):
        b, d = x.shape
        split = lambda y: y.view(b, self.heads, 1, d // self.heads)
        cache["k"].append(split(self.k(x)))
        cache["v"].append(split(self.v(x)))
        ks, vs = torch.cat(cache["k"], dim=2), torch.cat(cache["v"], dim=2)
        return self.o(F.scaled_dot_product_attention(split(self.q(x)), ks, vs).reshape(b, d))


class NeuralMemory(nn.Module):
    def __init__(self, dim, mem_dim=24):
        super().__init__()
        self.mem_dim = mem_dim
        self.to_k = nn.Linear(dim, mem_dim, bias=False)
        self.to_v = nn.Linear(dim, mem_dim, bias=False)
        self.to_q = nn.Linear(dim, mem_dim, bias=False)
        self.predict_surprise = nn.Sequential(nn.Linear(mem_dim, mem_dim), nn.Tanh(), nn.Linear(mem_dim, mem_dim))
        self.fade = nn.Parameter(torch.full((mem_dim, 1), 2.2))
        self.up = nn.Linear(mem_dim, dim)

    def blank(self, batch, ref):
        return ref.new_zeros(batch, self.mem_dim, self.mem_dim)

    def forward(self, x, M):
        """x: [B, D] the current token. Returns what is recalled and the new matrix."""
        k, v, q = F.normalize(self.to_k(x), dim=-1), self.to_v(x), self.to_q(x)
        expected = torch.bmm(M, k.unsqueeze(2)).squeeze(2)
        surprise = self.predict_surprise(v - expected).sigmoid()
        M = self.fade.sigmoid() * M + torch.bmm((surprise * v).unsqueeze(2), k.unsqueeze(1))
        return self.up(torch.bmm(M, q.unsqueeze(2)).squeeze(2)), M


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.memory = CachedAttention(dim, heads), NeuralMemory(dim)
        self.gate = nn.Linear(dim, 1)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def start(self, batch, ref):
        return {"kv": {"k": [], "v": []}, "M": self.memory.blank(batch, ref)}

    def forward(self, x, carry):
        h = self.n1(x)
        a = self.attn(h, carry["kv"])
        m, carry["M"] = self.memory(h, carry["M"])
        g = torch.sigmoid(self.gate(h))
        x = x + (g * a + (1 - g) * m)
        return x + self.ffn(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads) for _ in range(n_layers))
        self.ln, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        B, T = tokens.shape
        carries = [layer.start(B, self.head.weight) for layer in self.layers]
        logits = []
        for t in range(T):
            x = self.tok(tokens[:, t]) + self.pos.weight[t]
            for layer, carry in zip(self.layers, carries):
                x = layer(x, carry)
            logits.append(self.head(self.ln(x)))
        return torch.stack(logits, dim=1)
