"""Fast-weight memory. Everything that does not need the loop (projections, recall for the surprise, gates) is
computed for all tokens at once in front of it, which makes the loop body two fused kernels."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def phi(x):
    """DPFP-like positive feature map (Schlag et al. 2021), nu = 1, normalised to sum one."""
    r = torch.cat([x.relu(), (-x).relu()], dim=-1)
    y = r * r.roll(1, dims=-1)
    return y / (y.sum(-1, keepdim=True) + 1e-6)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=24):
        super().__init__()
        self.q = nn.Linear(d_model, d_key, bias=False)
        self.k = nn.Linear(d_model, d_key, bias=False)
        self.v = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh(), nn.Linear(d_model, 1))
        self.log_decay = nn.Parameter(torch.tensor(3.5))
        self.o = nn.Linear(d_model, d_model, bias=False)
        self.d_feat = 2 * d_key

    def init_state(self, x):
        return x.new_zeros(x.size(0), x.size(-1), self.d_feat)

    def forward(self, x):
        M = self.init_state(x)
        q, k, v = phi(self.q(x)), phi(self.k(x)), self.v(x)

        # what does the memory expect for each token? surprise = how far off it is
        expected = torch.einsum("bvk,btk->btv", M, k)
        surprise = torch.sigmoid(self.surprise(v - expected))

        write = surprise * v
        decay = torch.sigmoid(self.log_decay)
        out = []
        for t in range(x.size(1)):
            M = decay * M + torch.einsum("bv,bk->bvk", write[:, t], k[:, t])
            out.append(torch.einsum("bvk,bk->bv", M, q[:, t]))
        return self.o(torch.stack(out, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * self.mem(h)
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
