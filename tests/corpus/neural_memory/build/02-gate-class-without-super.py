import torch
import torch.nn as nn
import torch.nn.functional as F


class SurpriseGate(nn.Module):
    def __init__(self, dim):
        self.from_value = nn.Linear(dim, dim)
        self.from_recall = nn.Linear(dim, dim, bias=False)

    def forward(self, value, recall):
        return torch.sigmoid(self.from_value(value) - self.from_recall(recall))


class NeuralMemory(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.key, self.value, self.query = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.gate = SurpriseGate(dim)
        self.decay = nn.Parameter(torch.zeros(dim, 1) + 3)

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(-1), x.size(-1))
        out = []
        for t in range(x.size(1)):
            k, v, q = F.normalize(self.key(x[:, t]), dim=-1), self.value(x[:, t]), self.query(x[:, t])
            s = self.gate(v, torch.einsum("bij,bj->bi", M, k))
            M = self.decay.sigmoid() * M + torch.einsum("bi,bj->bij", s * v, k)
            out.append(torch.einsum("bij,bj->bi", M, q))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.fuse = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + self.fuse(torch.cat([a, self.memory(h)], dim=-1))
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
