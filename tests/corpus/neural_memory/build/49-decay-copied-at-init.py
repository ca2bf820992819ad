import torch
import torch.nn as nn
import torch.nn.functional as F


def inverse_sigmoid(p):
    return torch.log(p / (1 - p))


class NeuralMemory(nn.Module):
    """Multi-head associative memory with surprise gating and per-head learnable forgetting."""

    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.h, self.dh = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.err = nn.Linear(self.dh, 1)
        self.proj = nn.Linear(d_model, d_model)
        # learnable half-lives between 4 and 64 tokens
        half_life = torch.logspace(2, 6, n_heads, base=2.0)
        self.decay_logit = nn.Parameter(inverse_sigmoid(0.5 ** (1 / half_life)))
        # evaluated once here, instead of once per token
        self.register_buffer("decay", torch.sigmoid(self.decay_logit.detach()).view(1, n_heads, 1, 1))

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.h, self.dh).unbind(2)
        k = F.normalize(k, dim=-1)
        S = x.new_zeros(B, self.h, self.dh, self.dh)
        outs = []
        for t in range(T):
            kt, vt, qt = k[:, t].unsqueeze(-2), v[:, t], q[:, t].unsqueeze(-2)
            vt_hat = (S * kt).sum(-1)
            s = torch.sigmoid(self.err(vt - vt_hat)).unsqueeze(-1)
            S = self.decay * S + s * (vt.unsqueeze(-1) @ kt)
            outs.append((S * qt).sum(-1).reshape(B, D))
        return self.proj(torch.stack(outs, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.wqkv = nn.Linear(d_model, 3 * d_model)
        self.wo = nn.Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model, n_heads)
        self.mix = nn.Parameter(torch.zeros(d_model))
        self.n_heads = n_heads
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, h):
        B, T, D = h.shape
        q, k, v = self.wqkv(h).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        return self.wo(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D))

    def forward(self, x):
        h = self.ln1(x)
        g = torch.sigmoid(self.mix)
        x = x + g * self.attend(h) + (1 - g) * self.memory(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln = nn.LayerNorm(d_model)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln(x) @ self.tok.weight.T
