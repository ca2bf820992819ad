import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, num_heads=4):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, d_model // num_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.surprise_mlp = nn.Sequential(
            nn.Linear(2 * self.head_dim, self.head_dim),
            nn.ReLU(),
            nn.Linear(self.head_dim, 1),
        )
        self.decay = nn.Parameter(torch.randn(num_heads))

    def forward(self, x):
        B, T, D = x.shape
        qkv = self.in_proj(x).reshape(B, T, 3, self.num_heads, self.head_dim)
        M = torch.zeros(B, self.num_heads, self.head_dim, self.head_dim, device=x.device)
        ys = []
        for t in range(T):
            q, k, v = qkv[:, t].unbind(dim=1)
            k = F.normalize(k, dim=-1)
            pred = torch.einsum("bhij,bhj->bhi", M, k)
            surprise = torch.sigmoid(self.surprise_mlp(torch.cat([v, pred], dim=-1)))
            M = torch.sigmoid(self.decay)[None, :, None, None] * M
            M = M + torch.einsum("bhi,bhj->bhij", surprise * v, k)
            ys.append(torch.einsum("bhij,bhj->bhi", M, q).reshape(B, D))
        return torch.stack(ys, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads)
        self.fuse = nn.Linear(2 * d_model, d_model)
        self.fuse_gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        both = torch.cat([a, self.memory(h)], dim=-1)
        # gated linear unit over attention and memory
        x = x + torch.sigmoid(self.fuse_gate(both)) * self.fuse(both)
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
