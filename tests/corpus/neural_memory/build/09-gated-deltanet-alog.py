# Gated DeltaNet style memory (reference recurrence, no chunking), with the write strength beta made a *surprise* gate.
# State layout follows flash-linear-attention: S is [B, H, K, V].
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def l2norm(x, eps=1e-6):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def rope(x, base=10000.0):
    # x: [B, H, T, D]
    T, D = x.shape[-2:]
    inv = base ** (-torch.arange(0, D, 2, device=x.device, dtype=x.dtype) / D)
    ang = torch.arange(T, device=x.device, dtype=x.dtype)[:, None] * inv[None]
    c, s = ang.cos(), ang.sin()
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return torch.stack((x1 * c - x2 * s, x1 * s + x2 * c), dim=-1).flatten(-2)


class NeuralMemory(nn.Module):
    def __init__(self, hidden_size=64, num_heads=4, expand_v=1.0, conv_size=3):
        super().__init__()
        self.num_heads = num_heads
        self.key_dim = hidden_size // num_heads
        self.value_dim = int(expand_v * hidden_size) // num_heads
        self.q_proj = nn.Linear(hidden_size, num_heads * self.key_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, num_heads * self.key_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_heads * self.value_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * self.value_dim, hidden_size, bias=False)
        self.conv_size = conv_size
        self.k_conv = nn.Conv1d(num_heads * self.key_dim, num_heads * self.key_dim, conv_size,
                                groups=num_heads * self.key_dim)

        # decay as in mamba2 / gdn:  g = -exp(A_log) * softplus(a_t + dt_bias),  state *= exp(g)
        self.a_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.A_log = nn.Parameter(torch.log(torch.empty(num_heads).uniform_(0.5, 4.0)))
        dt = torch.exp(torch.rand(num_heads) * (math.log(0.1) - math.log(0.005)) + math.log(0.005))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))

        # surprise: per head, reads what arrived and what the state predicted for the key
        self.beta_w = nn.Parameter(torch.randn(num_heads, 2 * self.value_dim, 16) / math.sqrt(2 * self.value_dim))
        self.beta_u = nn.Parameter(torch.randn(num_heads, 16) / 4)
        self.beta_b = nn.Parameter(torch.zeros(num_heads))

    def _heads(self, x, d):
        return x.view(*x.shape[:2], self.num_heads, d)

    def surprise(self, v, v_hat):
        z = torch.einsum("bhi,hij->bhj", torch.cat([v, v_hat], -1), self.beta_w)
        return torch.sigmoid(torch.einsum("bhj,hj->bh", F.gelu(z), self.beta_u) + self.beta_b)

    def forward(self, x):
        B, T, _ = x.shape
        k = self.k_conv(F.pad(self.k_proj(x).transpose(1, 2), (self.conv_size - 1, 0))).transpose(1, 2)
        q = l2norm(self._heads(self.q_proj(x), self.key_dim))
        k = l2norm(self._heads(F.silu(k), self.key_dim))
        v = self._heads(self.v_proj(x), self.value_dim)
        g = (-self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)).exp()     # [B, T, H] in (0, 1)

        S = torch.zeros(B, self.num_heads, self.key_dim, self.value_dim, device=x.device, dtype=x.dtype)
        o = torch.empty_like(v)
        outs = []
        for i in range(T):
            S = S * g[:, i, :, None, None]
            v_hat = (S * k[:, i].unsqueeze(-1)).sum(-2)
            beta = self.surprise(v[:, i], v_hat)
            delta = beta.unsqueeze(-1) * (v[:, i] - v_hat)
            S = S + k[:, i].unsqueeze(-1) * delta.unsqueeze(-2)
            outs.append((S * q[:, i].unsqueeze(-1)).sum(-2))
        o = torch.stack(outs, 1)
        return self.o_proj(o.flatten(2))


class Attention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.h = num_heads
        self.wqkv = nn.Linear(hidden_size, hidden_size * 3, bias=False)
        self.wo = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.wqkv(x).view(B, T, 3, self.h, C // self.h).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        return self.wo(o.transpose(1, 2).reshape(B, T, C))


class HybridBlock(nn.Module):
    """attention and memory side by side, mixed by one input dependent gate"""

    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.pre = nn.LayerNorm(hidden_size)
        self.attn = Attention(hidden_size, num_heads)
        self.mem = NeuralMemory(hidden_size, num_heads)
        self.g_proj = nn.Linear(hidden_size, hidden_size)
        self.post = nn.LayerNorm(hidden_size)
        self.up = nn.Linear(hidden_size, 4 * hidden_size)
        self.down = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x):
        h = self.pre(x)
        a, m, g = self.attn(h), self.mem(h), self.g_proj(h).sigmoid()
        x = x + (g * a + (1.0 - g) * m)
        return x + self.down(F.relu(self.up(self.post(x))).square())


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.Sequential(*[HybridBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens):
        return self.lm_head(self.norm_f(self.blocks(self.embed(tokens))))


if __name__ == "__main__":
    torch.manual_seed(0)
    lm = MemoryTransformer()
    y = torch.randint(0, 256, (2, 16))
    loss = F.cross_entropy(lm(y)[:, :-1].reshape(-1, 256), y[:, 1:].reshape(-1))
    loss.backward()
    print(loss.item())
