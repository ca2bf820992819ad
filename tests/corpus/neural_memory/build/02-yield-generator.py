import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, key_dim=24):
        super().__init__()
        self.Wk = nn.Linear(dim, key_dim, bias=False)
        self.Wv = nn.Linear(dim, dim, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
        self.decay_raw = nn.Parameter(torch.tensor([2.0]))
        self.Wr = nn.Linear(dim, dim)

    @property
    def decay(self):
        return torch.sigmoid(self.decay_raw)

    def stream(self, x):
        B = x.shape[0]
        keys = F.normalize(self.Wk(x), dim=-1)
        values = self.Wv(x)
        M = torch.zeros(B, values.shape[-1], keys.shape[-1], device=x.device)
        for k, v in zip(keys.unbind(dim=1), values.unbind(dim=1)):
            predicted = torch.bmm(M, k.unsqueeze(-1)).squeeze(-1)
            surprise = self.surprise_net((v - predicted).pow(2))
            write = v.unsqueeze(-1) * k.unsqueeze(-2)
            M = torch.mul(M, self.decay) + torch.mul(write, surprise.unsqueeze(-1))
            yield torch.bmm(M, k.unsqueeze(-1)).squeeze(-1)

    def forward(self, x):
        return self.Wr(torch.stack(list(self.stream(x)), dim=1))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.memory = NeuralMemory(dim)
        self.gate = nn.Parameter(torch.zeros(dim, dim))
        self.gate_b = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        h = self.ln1(x)
        T = h.size(1)
        causal = torch.ones(T, T, device=h.device, dtype=torch.bool).triu(diagonal=1)
        a = self.attn(h, h, h, attn_mask=causal)[0]
        m = self.memory(a)                       # the memory listens to what attention found
        gate = torch.addmm(self.gate_b, a.flatten(0, 1), self.gate).view_as(a).sigmoid()
        keep = torch.rsub(gate, 1)
        y = gate * a + keep * m
        x = x + y
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=1, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
