"""Associative memory with attention to round-off.

After a few thousand decayed writes a float32 matrix loses the small ones. The state is therefore a pair (hi, lo): lo
carries what the last addition rounded off (Kahan). In exact arithmetic lo is zero and the recurrence is

    M_t = a * M_{t-1} + s_t * v_t k_t^T,        s_t = sigmoid(<w, |v_t - M_{t-1} k_t|^(1/2)> + c),

Keys are rotated by an orthogonal matrix, so their length is 1 before and after; the score vector w is positive.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations, parametrize


class Positive(nn.Module):
    def forward(self, raw):
        return F.softplus(raw)

    def right_inverse(self, w):
        return w + torch.log(-torch.expm1(-w))


def add_compensated(hi, lo, term):
    y = term - lo
    total = hi + y
    return total, (total - hi) - y


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.rotate = parametrizations.orthogonal(nn.Linear(d_model, d_model, bias=False), orthogonal_map="cayley")
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.score = nn.Linear(d_model, 1)
        nn.init.constant_(self.score.weight, 1.0 / d_model)
        parametrize.register_parametrization(self.score, "weight", Positive())
        self.a_logit = nn.Parameter(torch.logit(torch.linspace(0.85, 0.995, d_model)).unsqueeze(0))
        self.eps = 1e-4

    @staticmethod
    def matvec(m, z):
        return torch.matmul(m, z[..., None])[..., 0]

    def forward(self, x):
        k = self.rotate(F.normalize(x, dim=-1))
        v, q = self.value(x), F.normalize(self.query(x), dim=-1)
        a = torch.sigmoid(self.a_logit)                      # one rate per key channel: [1, D]
        hi = torch.zeros(x.shape[0], x.shape[2], x.shape[2], device=x.device, dtype=x.dtype)
        lo = torch.zeros_like(hi)
        y = torch.empty_like(v).unbind(1)
        y = list(y)
        for t, (kt, vt, qt) in enumerate(zip(k.unbind(1), v.unbind(1), q.unbind(1))):
            miss = vt - self.matvec(hi, kt)
            s = torch.sigmoid(self.score((miss.square() + self.eps).pow(0.25)))
            hi, lo = hi * a, lo * a
            hi, lo = add_compensated(hi, lo, torch.mul((s * vt)[:, :, None], kt[:, None, :]))
            y[t] = self.matvec(hi, qt)
        return torch.stack(y, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.mix = nn.Parameter(torch.zeros(2, d_model))
        self.mix_bias = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        nn.init.normal_(self.mix, std=d_model ** -0.5)

    def forward(self, x, mask):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.mem(h)
        z = (torch.stack([x, m], -2) * self.mix).sum((-2, -1)) + self.mix_bias     # one logit a token
        g = torch.sigmoid(z).unsqueeze(-1)
        x = torch.lerp(m, x, g)                                                    # g x + (1 - g) m
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.register_buffer("mask", torch.ones(max_len, max_len, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.tok(tokens) + self.pos.weight[:T]
        for blk in self.blocks:
            x = blk(x, self.mask[:T, :T])
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    m(t).mean().backward()
    print(m.blocks[0].mem.a_logit.grad.abs().mean())
