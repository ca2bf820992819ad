import torch
import torch.nn as nn
import torch.nn.functional as F


class StopGradBaseline(nn.Module):
    """Variance reduction: the recalled signal enters relative to a baseline through which no gradient flows."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def baseline(self, y):
        with torch.no_grad():
            return y.clone()

    def forward(self, y):
        return self.scale * (y - self.baseline(y))


class NeuralMemory(nn.Module):
    """M_t = decay * M_{t-1} + surprise_t * v_t (x) k_t,  surprise_t = sigmoid(W (v_t - M_{t-1} k_t) + b)"""

    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.surprise_gate = nn.Linear(d_model // n_heads, 1)
        self.decay_logit = nn.Parameter(torch.full((n_heads, 1, 1), 3.0))
        self.o = nn.Linear(d_model, d_model, bias=False)
        self.stabilise = StopGradBaseline()

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)
        k = F.normalize(k, dim=-1)
        decay = torch.sigmoid(self.decay_logit)
        M = torch.zeros_like(v[:, 0]).unsqueeze(-1) * k[:, 0].unsqueeze(-2)
        reads = []
        for t in range(x.size(1)):
            retrieved = torch.einsum("bhvk,bhk->bhv", M, k[:, t])
            surprise = torch.sigmoid(self.surprise_gate(v[:, t] - retrieved))
            M = decay * M + torch.einsum("bhv,bhk->bhvk", surprise * v[:, t], k[:, t])
            reads.append(torch.einsum("bhvk,bhk->bhv", M, q[:, t]))
        return self.stabilise(self.o(torch.stack(reads, dim=1).flatten(2)))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion_gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.fusion_gate(torch.cat([attn, mem], dim=-1)))
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


if __name__ == "__main__":
    torch.manual_seed(0)
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
