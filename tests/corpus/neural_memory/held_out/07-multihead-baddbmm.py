"""
Transformer LM with a neural long-term memory.

Memory: one fast-weight matrix M per (sequence, head). Per token t

    r_t = M_{t-1} k_t                              what the memory expects
    s_t = sigmoid(MLP([v_t ; r_t ; v_t - r_t]))    how wrong it was
    M_t = lambda_h * M_{t-1} + s_t * v_t k_t^T
    y_t = M_t q_t

and the block mixes y_t with local attention through one gate.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        assert d_model % n_heads == 0
        self.h = n_heads
        self.dh = d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Sequential(
            nn.Linear(3 * self.dh, self.dh),
            nn.SiLU(),
            nn.Linear(self.dh, 1),
        )
        # sigmoid(2.0 .. 5.0): heads start with different time constants
        self.decay_logit = nn.Parameter(torch.linspace(2.0, 5.0, n_heads))

    def forward(self, x):
        B, T, D = x.shape
        H, dh = self.h, self.dh
        q, k, v = self.qkv(x).chunk(3, dim=-1)

        def heads(z):  # (B, T, D) -> (T, B*H, dh)
            return z.view(B, T, H, dh).permute(1, 0, 2, 3).reshape(T, B * H, dh)

        q, k, v = heads(q), F.normalize(heads(k), dim=-1), heads(v)
        q = q / math.sqrt(dh)
        lam = torch.sigmoid(self.decay_logit).repeat(B).view(B * H, 1, 1)

        M = x.new_zeros(B * H, dh, dh)
        ys = []
        for t in range(T):
            kt, vt = k[t].unsqueeze(-1), v[t]
            r = torch.bmm(M, kt).squeeze(-1)
            s = torch.sigmoid(self.surprise(torch.cat([vt, r, vt - r], dim=-1)))
            M = torch.baddbmm(lam * M, (s * vt).unsqueeze(-1), kt.transpose(1, 2))
            ys.append(torch.bmm(M, q[t].unsqueeze(-1)).squeeze(-1))
        y = torch.stack(ys).view(T, B, H, dh).permute(1, 0, 2, 3).reshape(B, T, D)
        return self.out(y)


class CausalAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = (z.view(B, T, self.n_heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = CausalAttention(d_model, n_heads)
        self.mem = NeuralMemory(d_model, n_heads)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.ln1(x)
        a = self.attn(h)
        m = self.mem(h)
        g = torch.sigmoid(self.gate(h))
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
