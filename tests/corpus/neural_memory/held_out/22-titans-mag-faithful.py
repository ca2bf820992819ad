"""
Titans, "Memory as a Gate" (MAG), with the linear (matrix) memory. Equations (8)-(15) and (26)-(28) of the paper.

    grad_t = dl/dM = (M_{t-1} k_t - v_t) k_t^T              momentary surprise
    S_t    = eta_t S_{t-1} - theta_t grad_t                  past surprise + momentary surprise
    M_t    = (1 - alpha_t) M_{t-1} + S_t                     forgetting
    o      = y (x) sigma(M(q))                               gated branch
theta_t, eta_t and alpha_t are data dependent.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.functional import silu, normalize


class AdaptiveRates(nn.Module):
    """theta (learning rate of the inner loop), eta (momentum), alpha (forgetting), per token and head"""

    def __init__(self, dim, heads, theta_max=1.0):
        super().__init__()
        self.to_theta = nn.Linear(dim, heads)
        self.to_eta = nn.Linear(dim, heads)
        self.to_alpha = nn.Linear(dim, heads)
        self.theta_max = theta_max
        nn.init.constant_(self.to_alpha.bias, -3.0)
        nn.init.constant_(self.to_eta.bias, -1.0)

    def forward(self, x):
        theta = self.to_theta(x).sigmoid() * self.theta_max
        return theta, self.to_eta(x).sigmoid(), self.to_alpha(x).sigmoid()


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, heads=2, dim_head=32):
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        inner = heads * dim_head
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.rates = AdaptiveRates(dim, heads)
        self.combine = nn.Linear(inner, dim, bias=False)

    def split(self, t):
        return t.unflatten(-1, (self.heads, self.dim_head))

    def forward(self, x):
        q = normalize(silu(self.split(self.to_q(x))), dim=-1)
        k = normalize(silu(self.split(self.to_k(x))), dim=-1)
        v = silu(self.split(self.to_v(x)))
        theta, eta, alpha = (r[..., None, None] for r in self.rates(x))

        M = x.new_zeros(x.shape[0], self.heads, self.dim_head, self.dim_head)
        S = torch.zeros_like(M)
        retrieved = []
        for t in range(x.shape[1]):
            prediction = torch.einsum("bhij,bhj->bhi", M, k[:, t])
            surprise = prediction - v[:, t]
            grad = torch.einsum("bhi,bhj->bhij", surprise, k[:, t])
            S = eta[:, t] * S - theta[:, t] * grad
            M = (1 - alpha[:, t]) * M + S
            retrieved.append(torch.einsum("bhij,bhj->bhi", M, q[:, t]))
        return self.combine(torch.stack(retrieved, dim=1).flatten(-2))


class MAGBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.norm_attn, self.norm_mem = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x):
        n = x.shape[1]
        mask = torch.ones(n, n, device=x.device, dtype=torch.bool).triu(1)
        h = self.norm(x)
        y, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        gate = self.norm_mem(self.memory(h)).sigmoid()
        x = x + self.norm_attn(y) * gate
        return x + self.ff(self.ff_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, n_persist=4):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_len + n_persist, d_model)
        self.persist = nn.Parameter(torch.randn(n_persist, d_model) * 0.02)      # persistent memory tokens
        self.layers = nn.ModuleList([MAGBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.to_logits = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        b = tokens.shape[0]
        x = torch.cat([self.persist.expand(b, -1, -1), self.token_emb(tokens)], dim=1)
        x = x + self.pos_emb.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.to_logits(self.norm(x[:, self.persist.shape[0]:]))


if __name__ == "__main__":
    model = MemoryTransformer()
    ids = torch.randint(0, 256, (2, 16))
    loss = F.cross_entropy(model(ids)[:, :-1].reshape(-1, 256), ids[:, 1:].reshape(-1))
    loss.backward()
    print(f"{loss.item():.3f}")
