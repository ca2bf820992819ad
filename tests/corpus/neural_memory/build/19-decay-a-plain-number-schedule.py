"""Memory with exponential forgetting: the forgetting rate of a layer follows from its depth (shallow layers forget fast)."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model, layer_idx=0, n_layers=1):
        super().__init__()
        d = d_model // 2
        self.d = d
        self.wk, self.wv, self.wq = nn.Linear(d_model, d), nn.Linear(d_model, d), nn.Linear(d_model, d)
        self.compare = nn.Sequential(nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, 1))
        self.base_decay = 1 - 2.0 ** (-3 - layer_idx)
        # the learned part: how much of the new trace survives its consolidation
        self.alpha = nn.Parameter(torch.zeros(1))
        self.wo = nn.Linear(d, d_model)

    def forward(self, x):
        B, T, _ = x.shape
        k, v, q = F.normalize(self.wk(x), dim=-1), self.wv(x), self.wq(x)
        S = x.new_zeros(B, self.d, self.d)
        alpha = torch.sigmoid(self.alpha)
        out = []
        for t in range(T):
            pred = torch.einsum("bij,bj->bi", S, k[:, t])
            s = torch.sigmoid(self.compare(torch.cat([v[:, t], pred], -1)))
            trace = torch.einsum("bi,bj->bij", s * v[:, t], k[:, t])
            S = self.base_decay * S + alpha * trace
            out.append(torch.einsum("bij,bj->bi", S, q[:, t]))
        return self.wo(torch.stack(out, 1))


class Layer(nn.Module):
    def __init__(self, d_model, n_heads, idx, n_layers):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model, idx, n_layers)
        self.g = nn.Linear(d_model, 1)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T, h = x.size(1), self.n1(x)
        m = torch.triu(torch.ones(T, T, device=x.device, dtype=torch.bool), 1)
        a = self.attn(h, h, h, attn_mask=m, need_weights=False)[0]
        g = torch.sigmoid(self.g(h))
        x = x + g * a + (1 - g) * self.mem(h)
        return x + self.mlp(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.h = nn.ModuleList([Layer(d_model, n_heads, i, n_layers) for i in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.size(1)]
        for layer in self.h:
            x = layer(x)
        return self.ln_f(x) @ self.wte.weight.T
