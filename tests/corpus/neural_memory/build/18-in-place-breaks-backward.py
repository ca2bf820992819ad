import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Keeps one buffer of state per call and edits it in place, to save allocations."""

    def __init__(self, d_model=64, d_key=32):
        super().__init__()
        self.d_key = d_key
        self.k = nn.Linear(d_model, d_key)
        self.v = nn.Linear(d_model, d_model)
        self.novelty = nn.Linear(2 * d_model, 1)
        self.lam = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        state = torch.zeros(x.shape[0], x.shape[2], self.d_key, device=x.device)
        out = []
        for t in range(x.shape[1]):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            recall = torch.bmm(state, k.unsqueeze(2)).squeeze(2)
            s = torch.sigmoid(self.novelty(torch.cat([v, recall], dim=1)))
            state.mul_(torch.sigmoid(self.lam))
            state.add_((s * v).unsqueeze(2) * k.unsqueeze(1))
            out.append(torch.bmm(state, k.unsqueeze(2)).squeeze(2))
        return torch.stack(out, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.mem = NeuralMemory(d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a + self.mem(h)
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
