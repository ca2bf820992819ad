"""Fast weight programmer (Schlag, Irie, Schmidhuber 2021) as long-term memory.

Slow weights program a fast weight matrix W by outer products. Differences to the paper: DPFP keys kept, but the write
strength comes from a comparison of the new value with the old one, and W decays.
"""
import torch
from torch import nn
from torch.nn import functional as F


def dpfp(x, nu=1):
    """deterministic parameter-free projection, eq. 36 of the paper; [.., d] -> [.., 2*d*nu], normalised to sum 1"""
    x = torch.cat([F.relu(x), F.relu(-x)], dim=-1)
    rolled = torch.cat([x.roll(shifts=j, dims=-1) for j in range(1, nu + 1)], dim=-1)
    y = torch.cat([x] * nu, dim=-1) * rolled
    return y / (y.sum(-1, keepdim=True) + 1e-5)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4, nu=1):
        super().__init__()
        self.h, self.dh, self.nu = n_heads, d_model // n_heads, nu
        self.slow_net = nn.Linear(d_model, 3 * d_model, bias=False)
        # compares: W_new v_new + W_old v_old -> tanh -> scalar
        self.cmp_new = nn.Linear(self.dh, self.dh)
        self.cmp_old = nn.Linear(self.dh, self.dh, bias=False)
        self.cmp_out = nn.Linear(self.dh, 1)
        self.log_half_life = nn.Parameter(torch.tensor([8.0, 16.0, 32.0, 64.0])[torch.arange(n_heads) % 4].log())
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def keep_rate(self):
        return torch.exp2(-torch.exp(-self.log_half_life))       # 0.5 ** (1 / half_life)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.slow_net(x).reshape(b, t, 3, self.h, self.dh).permute(2, 1, 0, 3, 4).flatten(2, 3)  # [t, b*h, dh]
        q, k = dpfp(q, self.nu), dpfp(k, self.nu)
        keep = self.keep_rate().repeat(b).view(-1, 1, 1)

        W = torch.zeros(b * self.h, self.dh, k.size(-1), dtype=x.dtype, device=x.device)
        reads = []
        for q_t, k_t, v_t in zip(q, k, v):
            v_old = torch.bmm(W, k_t.unsqueeze(-1)).squeeze(-1)
            beta = torch.sigmoid(self.cmp_out(torch.tanh(self.cmp_new(v_t) + self.cmp_old(v_old))))
            W = torch.baddbmm(keep * W, (beta * (v_t - v_old)).unsqueeze(-1), k_t.unsqueeze(-2))
            reads.append(torch.bmm(W, q_t.unsqueeze(-1)).squeeze(-1))
        y = torch.stack(reads)                                    # [t, b*h, dh]
        return self.proj(y.view(t, b, d).transpose(0, 1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads, mlp_ratio=4):
        super().__init__()
        self.ln_attn, self.ln_mem, self.ln_mlp = (nn.LayerNorm(d_model) for _ in range(3))
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True, bias=False)
        self.mem = NeuralMemory(d_model, n_heads)
        self.mix = nn.Parameter(torch.zeros(d_model))
        self.mlp = nn.Sequential(nn.Linear(d_model, mlp_ratio * d_model), nn.SiLU(),
                                 nn.Linear(mlp_ratio * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln_attn(x)
        now = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        past = self.mem(self.ln_mem(x))
        g = self.mix.sigmoid()
        x = x + past + g * (now - past)
        return x + self.mlp(self.ln_mlp(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=3, max_len=2048):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln = nn.LayerNorm(d_model)
        self.out = nn.Linear(d_model, vocab_size, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(m):
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.05)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, std=0.05)

    def forward(self, tokens):
        t = tokens.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.emb(tokens) + self.pos.weight[:t]
        for blk in self.blocks:
            x = blk(x, mask)
        return self.out(self.ln(x))
