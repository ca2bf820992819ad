import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    Fading by competition: synaptic weight is a limited resource (homeostatic scaling). When the matrix gets larger than
    its budget, everything in it is scaled down, so that old traces fade as new ones come in.
    """

    BUDGET = 4.0

    def __init__(self, d_model=64):
        super().__init__()
        self.proj = nn.Linear(d_model, 3 * d_model)
        self.novelty = nn.Sequential(nn.Linear(d_model, d_model // 4), nn.Tanh(), nn.Linear(d_model // 4, d_model))

    def homeostasis(self, M):
        size = torch.linalg.matrix_norm(M, keepdim=True)
        return M * (self.BUDGET / size.clamp(min=self.BUDGET))

    def forward(self, x):
        q, k, v = self.proj(x).chunk(3, -1)
        k = F.normalize(k, dim=-1)
        M = x.new_zeros(x.size(0), x.size(-1), x.size(-1))
        ys = []
        for t in range(x.size(1)):
            gap = v[:, t] - (M @ k[:, t, :, None]).squeeze(-1)
            s = torch.sigmoid(self.novelty(gap))
            M = self.homeostasis(M) + (s * gap)[:, :, None] * k[:, t, None, :]
            ys.append((M @ q[:, t, :, None]).squeeze(-1))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
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
