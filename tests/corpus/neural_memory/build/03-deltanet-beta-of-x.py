import torch
import torch.nn as nn
import torch.nn.functional as F


class ShortConv(nn.Module):
    """Depthwise causal convolution, as in (Gated) DeltaNet."""

    def __init__(self, dim, kernel=4):
        super().__init__()
        self.pad = kernel - 1
        self.conv = nn.Conv1d(dim, dim, kernel, groups=dim)

    def forward(self, x):
        return F.silu(self.conv(F.pad(x.transpose(1, 2), (self.pad, 0))).transpose(1, 2))


class NeuralMemory(nn.Module):
    """Gated delta rule: S_t = a_t S_{t-1} + b_t (v_t - S_{t-1} k_t) k_t^T.

    The prediction error (v_t - S k_t) is the surprise, b_t the writing strength, a_t the forgetting.
    """

    def __init__(self, dim, heads=4):
        super().__init__()
        self.heads, self.hd = heads, dim // heads
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.q_conv, self.k_conv, self.v_conv = ShortConv(dim), ShortConv(dim), ShortConv(dim)
        self.b_proj = nn.Linear(dim, heads)
        self.a_proj = nn.Linear(dim, heads)
        nn.init.constant_(self.a_proj.bias, -4.0)                 # small time steps: slow forgetting at first
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 8).log())
        self.o_norm = nn.LayerNorm(self.hd)
        self.o_proj = nn.Linear(dim, dim)

    def split(self, z):
        return z.view(z.shape[0], z.shape[1], self.heads, self.hd)

    def forward(self, x):
        q = F.normalize(self.split(self.q_conv(self.q_proj(x))), dim=-1)
        k = F.normalize(self.split(self.k_conv(self.k_proj(x))), dim=-1)
        v = self.split(self.v_conv(self.v_proj(x)))
        beta = torch.sigmoid(self.b_proj(x))
        alpha = torch.exp(-self.A_log.exp() * F.softplus(self.a_proj(x)))
        S = x.new_zeros(x.shape[0], self.heads, self.hd, self.hd)
        outs = []
        for t in range(x.shape[1]):
            S = alpha[:, t, :, None, None] * S
            surprise = v[:, t] - (S @ k[:, t, :, :, None]).squeeze(-1)
            S = S + beta[:, t, :, None, None] * surprise[..., :, None] * k[:, t, :, None, :]
            outs.append((S @ q[:, t, :, :, None]).squeeze(-1))
        y = self.o_norm(torch.stack(outs, 1))
        return self.o_proj(y.flatten(2))


class HybridBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.pre = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mem = NeuralMemory(dim, heads)
        self.mix = nn.Linear(dim, dim)
        self.post = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 3 * dim), nn.SiLU(), nn.Linear(3 * dim, dim))

    def forward(self, x):
        n = x.shape[1]
        h = self.pre(x)
        causal = torch.full((n, n), float("-inf"), device=x.device).triu(1)
        attended = self.attn(h, h, h, attn_mask=causal, need_weights=False)[0]
        g = torch.sigmoid(self.mix(h))
        x = x + g * attended + (1 - g) * self.mem(h)
        return x + self.ff(self.post(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.h = nn.Sequential(*[HybridBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return self.lm_head(self.ln_f(self.h(x)))
