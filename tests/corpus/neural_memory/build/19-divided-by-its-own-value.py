import torch
import torch.nn as nn
import torch.nn.functional as F


def unit_scale(g):
    """Rescales a gate so that its magnitude doesn't shrink over long sequences (gradients are unaffected in direction)."""
    return g / g.detach().clamp_min(1e-8)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.to_q = nn.Linear(d_model, d_model, bias=False)
        self.to_k = nn.Linear(d_model, d_model, bias=False)
        self.to_v = nn.Linear(d_model, d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model))
        self.decay_logit = nn.Parameter(torch.full((d_model,), 3.0))

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = F.normalize(self.to_q(x), dim=-1), F.normalize(self.to_k(x), dim=-1), self.to_v(x)
        decay = unit_scale(torch.sigmoid(self.decay_logit))[:, None]
        memory = x.new_zeros(B, D, D)
        reads = []
        for t in range(T):
            retrieved = torch.einsum("bij,bj->bi", memory, k[:, t])
            surprise = unit_scale(torch.sigmoid(self.surprise_net(torch.cat([v[:, t], retrieved], -1))))
            memory = decay * memory + torch.einsum("bi,bj->bij", surprise * v[:, t], k[:, t])
            reads.append(torch.einsum("bij,bj->bi", memory, q[:, t]))
        return torch.stack(reads, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, 1)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * attn + (1 - g) * mem
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
