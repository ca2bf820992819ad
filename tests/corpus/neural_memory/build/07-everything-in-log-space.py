"""Gates and decay are kept as log-probabilities until the last moment (we had trouble with fp16 gates before)."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def log_gate(z):
    """log g and log (1 - g) for the same logit."""
    return F.logsigmoid(z), F.logsigmoid(-z)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=2, d_head=24):
        super().__init__()
        self.h, self.d = n_heads, d_head
        self.kv = nn.Linear(d_model, 2 * n_heads * d_head, bias=False)
        self.q = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.log_forget = nn.Parameter(torch.full((n_heads, 1, d_head), -3.0))      # per key channel
        self.novelty = nn.Linear(2, 1)
        self.o = nn.Linear(n_heads * d_head, d_model, bias=False)

    def novelty_logit(self, v, r):
        log_mse = torch.log((v - r).square().mean(-1, keepdim=True) + 1e-5)
        overlap = F.cosine_similarity(v, r, dim=-1, eps=1e-5).unsqueeze(-1)
        return self.novelty(torch.cat([log_mse, overlap], -1))

    def forward(self, x):
        B, T, _ = x.shape
        k, v = self.kv(x).view(B, T, self.h, 2, self.d).unbind(3)
        q = self.q(x).view(B, T, self.h, self.d)
        k = F.elu(k) + 1
        k = k / k.sum(-1, keepdim=True)
        _, log_keep = log_gate(self.log_forget)
        mem = torch.zeros(B, self.h, self.d, self.d, dtype=x.dtype, device=x.device)
        reads = []
        for t in range(T):
            kt, vt = k[:, t], v[:, t]
            r = (mem * kt.unsqueeze(-2)).sum(-1)
            log_s, _ = log_gate(self.novelty_logit(vt, r))
            mem = mem * log_keep.exp() + log_s.exp().unsqueeze(-1) * (vt.unsqueeze(-1) * kt.unsqueeze(-2))
            reads.append((mem * q[:, t].unsqueeze(-2)).sum(-1))
        out = torch.stack(reads, 1)
        return self.o(out.flatten(2))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.z = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(approximate="tanh"), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        causal = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        a, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        log_g, log_1mg = log_gate(self.z(h))
        x = x + log_g.exp() * a + log_1mg.exp() * self.mem(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(0.02 * torch.randn(max_len, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos[: tokens.size(1)]
        for blk in self.blocks:
            x = blk(x)
        return F.linear(self.ln_f(x), self.tok.weight)
