import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.compare = nn.Sequential(nn.Linear(d * 2, d), nn.ReLU(), nn.Linear(d, 1))
        self.decay_logit = nn.Parameter(torch.tensor(2.9))

    def forward(self, x):
        B, T, D = x.shape
        fade = float(torch.sigmoid(self.decay_logit).item())
        M = torch.zeros(B, D, D, device=x.device)
        ys = []
        for t in range(T):
            k = F.normalize(self.to_k(x[:, t]), dim=-1)
            v = self.to_v(x[:, t])
            r = torch.einsum("bdk,bk->bd", M, k)
            s = self.compare(torch.cat([v, r], 1)).sigmoid()
            M = M * fade + (s * v).unsqueeze(2) * k.unsqueeze(1)
            ys.append(torch.einsum("bdk,bk->bd", M, self.to_q(x[:, t])))
        return torch.stack(ys, 1)


class MemoryLayer(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.pre = nn.LayerNorm(d)
        self.mha = nn.MultiheadAttention(d, heads, batch_first=True)
        self.ltm = NeuralMemory(d)
        self.blend = nn.Linear(3 * d, d)
        self.post = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        L = x.size(1)
        z = self.pre(x)
        short = self.mha(z, z, z, attn_mask=torch.triu(torch.ones(L, L, device=x.device), 1).bool())[0]
        long = self.ltm(z)
        beta = torch.sigmoid(self.blend(torch.cat([z, short, long], dim=-1)))
        x = x + beta * long + (1 - beta) * short
        return x + self.post(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.net = nn.ModuleList(MemoryLayer(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.net:
            x = layer(x)
        return self.head(x)
