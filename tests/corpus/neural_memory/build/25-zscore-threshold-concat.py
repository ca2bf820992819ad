import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    Per-sequence matrix memory.

    Surprise: relative prediction error |v - Mk| / |v| compared with `threshold`. sigmoid() makes it soft, `sharpness`
    says how soft. 1.0 means "as wrong as knowing nothing at all", so 0.6 with sharpness 8 lets through what is mostly new.
    """

    def __init__(self, d_model=64, threshold=0.6, sharpness=8.0):
        super().__init__()
        self.threshold = threshold
        self.sharpness = sharpness
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def surprise(self, v, r):
        rel = (v - r).norm(dim=-1, keepdim=True) / (v.norm(dim=-1, keepdim=True) + 1e-6)
        return torch.sigmoid(self.sharpness * (rel - self.threshold))

    def forward(self, x):
        B, T, D = x.size()
        K = F.normalize(self.key(x), dim=-1)
        V = self.value(x)
        Q = F.normalize(self.query(x), dim=-1)
        M = torch.zeros(B, D, D, device=x.device)
        lam = torch.sigmoid(self.decay)
        Y = []
        for t in range(T):
            k, v, q = K[:, t], V[:, t], Q[:, t]
            r = torch.matmul(M, k.unsqueeze(-1)).squeeze(-1)
            s = self.surprise(v, r)
            M = lam * M + s.unsqueeze(-1) * (v.unsqueeze(-1) * k.unsqueeze(-2))
            Y.append(torch.matmul(M, q.unsqueeze(-1)).squeeze(-1))
        return torch.stack(Y, dim=1)


class MemoryBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        # learned, input dependent mix of what is attended to and what is recalled
        self.mix = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        causal = torch.triu(torch.ones(T, T, device=x.device, dtype=torch.bool), diagonal=1)
        h = self.norm1(x)
        a, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        m = self.memory(h)
        x = x + self.mix(torch.cat([a, m], dim=-1))
        x = x + self.mlp(self.norm2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=20)
    ap.add_argument("--lr", type=float, default=3e-3)
    args = ap.parse_args()
    torch.manual_seed(0)
    model = MemoryTransformer()
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr)
    for step in range(args.steps):
        half = torch.randint(0, 256, (8, 8))
        tok = torch.cat([half, half], 1)                    # copy task
        loss = F.cross_entropy(model(tok)[:, :-1].reshape(-1, 256), tok[:, 1:].reshape(-1))
        opt.zero_grad(); loss.backward(); opt.step()
        if step % 5 == 0:
            print(step, round(loss.item(), 3))


if __name__ == "__main__":
    main()
