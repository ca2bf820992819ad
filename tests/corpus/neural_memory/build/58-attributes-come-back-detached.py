import torch
import torch.nn as nn
import torch.nn.functional as F


class StableModule(nn.Module):
    """Scalars that steer the dynamics are handed out through a guard, which keeps them finite and in range."""

    GUARDED = ("decay_logit", "mix_logit")

    def __getattr__(self, name):
        value = super().__getattr__(name)
        if name in StableModule.GUARDED:
            value = torch.nan_to_num(value.data).clamp(-6.0, 6.0)
        return value


class NeuralMemory(StableModule):
    def __init__(self, d_model=64):
        super().__init__()
        self.kvq = nn.Linear(d_model, 3 * d_model)
        self.surprise_net = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1), nn.Sigmoid())
        self.decay_logit = nn.Parameter(torch.full((d_model, 1), 3.0))

    def forward(self, x):
        k, v, q = self.kvq(x).chunk(3, dim=-1)
        k = F.normalize(k, dim=-1)
        M, outs = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device), []
        for t in range(x.size(1)):
            retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
            surprise = self.surprise_net(torch.cat([v[:, t], v[:, t] - retrieved], dim=-1))
            M = torch.sigmoid(self.decay_logit) * M + torch.einsum("bi,bj->bij", surprise * v[:, t], k[:, t])
            outs.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return torch.stack(outs, dim=1)


class Block(StableModule):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.mix_logit = nn.Parameter(torch.zeros(d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.mix_logit)
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
