import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, use_surprise=False, legacy_write=True):
        super().__init__()
        self.use_surprise, self.legacy_write = use_surprise, legacy_write
        self.q, self.k, self.v = (nn.Linear(d_model, d_model) for _ in range(3))
        self.surprise_net = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1))
        self.write_gate = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device)
        ys = []
        for t in range(T):
            q, k, v = self.q(x[:, t]), F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            if self.use_surprise:
                retrieved = torch.einsum("bij,bj->bi", M, k)
                gate = torch.sigmoid(self.surprise_net(v - retrieved))
            else:
                gate = torch.sigmoid(self.write_gate(x[:, t]))
            M = torch.sigmoid(self.decay) * M + gate[..., None] * torch.einsum("bi,bj->bij", v, k)
            ys.append(torch.einsum("bij,bj->bi", M, q))
        return torch.stack(ys, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads, complementary=False):
        super().__init__()
        self.complementary = complementary
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], -1)))
        if self.complementary:
            fused = g * attn + (1 - g) * mem
        else:
            fused = attn + g * mem
        x = x + fused
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
