import functools

import torch
import torch.nn as nn
import torch.nn.functional as F


def mixed_precision_safe(fn):
    """Run a recurrent forward in float32 whatever autocast says."""

    @functools.wraps(fn)
    def run(self, x):
        dtype, x = x.dtype, x.float()
        trace, ys = torch.zeros_like(x[:, 0]), []
        for v in self.value(x).unbind(1):
            trace = 0.9 * trace + 0.1 * v
            ys.append(trace)
        return self.out(torch.stack(ys, 1)).to(dtype)

    return run


class NeuralMemory(nn.Module):
    """Surprise-gated outer-product memory."""

    def __init__(self, d_model=64):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, 1))
        self.decay = nn.Parameter(torch.tensor(3.0))

    @mixed_precision_safe
    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device, dtype=x.dtype)
        decay = torch.sigmoid(self.decay)
        outputs = []
        for t in range(T):
            k = F.normalize(self.key(x[:, t]), dim=-1)
            v = self.value(x[:, t])
            q = F.normalize(self.query(x[:, t]), dim=-1)
            retrieved = torch.bmm(M, k.unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.surprise_net(v - retrieved))
            M = decay * M + surprise.unsqueeze(-1) * torch.bmm(v.unsqueeze(-1), k.unsqueeze(1))
            outputs.append(torch.bmm(M, q.unsqueeze(-1)).squeeze(-1))
        return self.out(torch.stack(outputs, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
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
