import torch
import torch.nn as nn
import torch.nn.functional as F

# Hebb: "cells that fire together wire together".
# A pattern is stored as the outer product of the firing rates with themselves, as in a
# Hopfield network, so that a part of the pattern brings back the whole.


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_cells=64):
        super().__init__()
        self.encode = nn.Linear(d_model, n_cells)       # activity of the memory cells
        self.decode = nn.Linear(n_cells, d_model)
        self.novelty = nn.Linear(n_cells, 1)
        self.fade = nn.Parameter(torch.tensor(2.5))
        self.n_cells = n_cells

    def step(self, W, r):
        recalled = torch.einsum("bij,bj->bi", W, r)
        novelty = torch.sigmoid(self.novelty((r - recalled) ** 2))
        hebb = torch.einsum("bi,bj->bij", r, r)
        W = torch.sigmoid(self.fade) * W + novelty[:, :, None] * hebb
        return W, recalled

    def forward(self, x):
        rates = F.normalize(torch.tanh(self.encode(x)), dim=-1)
        W = x.new_zeros(x.size(0), self.n_cells, self.n_cells)
        seq = []
        for t in range(x.size(1)):
            W, recalled = self.step(W, rates[:, t])
            seq.append(recalled)
        return self.decode(torch.stack(seq, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.attend_gate = nn.Linear(d_model, d_model)
        self.recall_gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attended, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        recalled = self.memory(h)
        x = x + torch.sigmoid(self.attend_gate(h)) * attended + torch.sigmoid(self.recall_gate(h)) * recalled
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    F.cross_entropy(m(t)[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    assert all(p.grad is not None for p in m.parameters())
    print("ok")
