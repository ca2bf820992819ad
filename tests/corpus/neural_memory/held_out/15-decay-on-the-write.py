"""Neural memory LM. M_t = M_{t-1} + decay * surprise * (v k^T), read with a query."""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F


def split_heads(x, n):
    return x.view(*x.shape[:-1], n, x.shape[-1] // n)


class Linear(nn.Linear):
    """Linear without bias and with a small init."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)
        nn.init.normal_(self.weight, std=1.0 / math.sqrt(n_in))


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.n_heads = n_heads
        dh = d_model // n_heads
        self.wq, self.wk, self.wv, self.wo = (Linear(d_model, d_model) for _ in range(4))
        self.err_in = nn.Linear(dh, dh)
        self.err_out = nn.Linear(dh, 1)
        self.decay_logits = nn.Parameter(torch.full((n_heads,), 1.5))
        self.norm = nn.LayerNorm(d_model)

    def update(self, M, k, v):
        retrieved = torch.einsum("bhij,bhj->bhi", M, k)
        surprise = torch.sigmoid(self.err_out(F.gelu(self.err_in(v - retrieved))))
        write = torch.einsum("bhi,bhj->bhij", surprise * v, k)
        decay = torch.sigmoid(self.decay_logits)[None, :, None, None]
        return M + decay * write

    def forward(self, x):
        B, T, D = x.shape
        q = F.normalize(split_heads(self.wq(x), self.n_heads), dim=-1)
        k = F.normalize(split_heads(self.wk(x), self.n_heads), dim=-1)
        v = split_heads(self.wv(x), self.n_heads)
        M = x.new_zeros(B, self.n_heads, D // self.n_heads, D // self.n_heads)
        out = []
        for t in range(T):
            M = self.update(M, k[:, t], v[:, t])
            out.append(torch.einsum("bhij,bhj->bhi", M, q[:, t]).reshape(B, D))
        return self.wo(self.norm(torch.stack(out, dim=1)))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = Linear(d_model, 3 * d_model)
        self.proj = Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model, n_heads)
        self.gate = nn.Linear(d_model, n_heads)  # one gate a head
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, h):
        q, k, v = (split_heads(z, self.n_heads).transpose(1, 2) for z in self.qkv(h).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))

    def forward(self, x):
        h = self.ln1(x)
        a = split_heads(self.attend(h), self.n_heads)
        m = split_heads(self.memory(h), self.n_heads)
        g = torch.sigmoid(self.gate(h)).unsqueeze(-1)
        x = x + (g * a + (1 - g) * m).flatten(2)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print({n: p.grad.norm().item() for n, p in m.named_parameters() if "decay" in n})
