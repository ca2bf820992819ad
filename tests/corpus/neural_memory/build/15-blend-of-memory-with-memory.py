import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.k, self.v, self.q1, self.q2 = (nn.Linear(d_model, d_model) for _ in range(4))
        self.err = nn.Linear(d_model, d_model)
        self.decay = nn.Parameter(torch.zeros(d_model, 1) + 2)

    def forward(self, x):
        M = x.new_zeros(x.size(0), x.size(2), x.size(2))
        first, second = [], []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            s = torch.sigmoid(self.err(v - torch.einsum("bij,bj->bi", M, k)))
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", s * v, k)
            first.append(torch.einsum("bij,bj->bi", M, self.q1(x[:, t])))
            second.append(torch.einsum("bij,bj->bi", M, self.q2(x[:, t])))
        return torch.stack(first, 1), torch.stack(second, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory, self.gate = NeuralMemory(d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        x = x + self.attention(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)[0]
        attn, mem = self.memory(h)              # attention-like read and associative read
        g = torch.sigmoid(self.gate(h))
        x = x + (g * attn + (1 - g) * mem)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
