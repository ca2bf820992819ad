import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    Associative memory M_t = sum_{i<=t} w_i * v_i k_i^T.

    A Python loop over tokens is slow on GPU, so all prefix sums are computed at once with cumsum.
    """

    def __init__(self, dim=64, rank=16):
        super().__init__()
        self.q = nn.Linear(dim, rank, bias=False)
        self.k = nn.Linear(dim, rank, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.novelty = nn.Linear(dim, 1)

    def forward(self, x):
        q = F.softmax(self.q(x), dim=-1)
        k = F.softmax(self.k(x), dim=-1)
        v = self.v(x)
        w = torch.sigmoid(self.novelty(x))                         # [B, T, 1]
        kv = torch.einsum('btd,btr->btdr', w * v, k)               # [B, T, D, R]
        M = torch.cumsum(kv, dim=1)                                # every prefix at once
        z = torch.cumsum(w * k, dim=1)
        num = torch.einsum('btdr,btr->btd', M, q)
        den = torch.einsum('btr,btr->bt', z, q).unsqueeze(-1)
        return num / (den + 1e-6)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.alpha = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.mem(h)
        alpha = torch.sigmoid(self.alpha(h))
        x = x + alpha * a + (1 - alpha) * m
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
