import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Matrix memory, one a sequence. Storage is allocated for the expected batch and recycled beyond it."""

    def __init__(self, d_model, banks=2):
        super().__init__()
        self.banks = banks
        self.wk, self.wv, self.wq = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.net = nn.Linear(d_model, d_model)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        b, n, d = x.shape
        size = min(b, self.banks)
        index = torch.arange(b, device=x.device) % size
        bank = x.new_zeros(size, d, d)
        out = []
        for t in range(n):
            M = bank[index]
            k, v = F.normalize(self.wk(x[:, t]), dim=-1), self.wv(x[:, t])
            r = torch.einsum("bij,bj->bi", M, k)
            s = torch.sigmoid(self.net(v - r))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", s * v, k)
            bank = M[:size]
            out.append(torch.einsum("bij,bj->bi", M, self.wq(x[:, t])))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem, self.gate = NeuralMemory(d_model), nn.Linear(d_model, 1)
        self.mlp = nn.Sequential(nn.Linear(d_model, 3 * d_model), nn.GELU(), nn.Linear(3 * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * self.mem(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        t = torch.arange(tokens.size(1), device=tokens.device)
        mask = t[None, :] > t[:, None]
        x = self.tok(tokens) + self.pos(t)
        for b in self.blocks:
            x = b(x, mask)
        return self.head(x)
