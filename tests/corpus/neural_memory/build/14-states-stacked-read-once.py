"""Write first, read later: the loop only makes the trajectory of states M_1 ... M_T; every query then reads *its own*
state from the stacked trajectory in one einsum. Costs memory, saves T small matmuls."""
import torch, torch.nn as nn, torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, heads=4):
        super().__init__()
        assert dim % heads == 0
        self.h, self.dh = heads, dim // heads
        self.in_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.err_proj = nn.Linear(self.dh, self.dh)
        self.val_proj = nn.Linear(self.dh, self.dh, bias=False)
        self.log_tau = nn.Parameter(torch.linspace(1.0, 4.0, heads).view(heads, 1, 1))
        self.out_proj = nn.Linear(dim, dim)

    def trajectory(self, k, v):
        """k, v: [B, H, T, dh] -> states [B, H, T, dh, dh]"""
        alpha = torch.exp(-torch.exp(-self.log_tau))
        M = k.new_zeros(*k.shape[:2], self.dh, self.dh)
        states = []
        for t in range(k.shape[2]):
            kt, vt = k.select(2, t), v.select(2, t)
            recalled = (M * kt.unsqueeze(-2)).sum(-1)
            s = torch.sigmoid(self.err_proj((vt - recalled).abs()) + self.val_proj(vt))
            M = alpha * M + (s * vt).unsqueeze(-1) * kt.unsqueeze(-2)
            states.append(M)
        return torch.stack(states, 2)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.in_proj(x).view(B, T, 3, self.h, self.dh).permute(2, 0, 3, 1, 4)
        M = self.trajectory(F.normalize(k, dim=-1), v)
        y = torch.einsum("bhtvk,bhtk->bthv", M, q)
        return self.out_proj(y.reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mem = NeuralMemory(dim, heads)
        self.mix = nn.Parameter(torch.zeros(dim))
        self.mix_x = nn.Linear(dim, dim, bias=False)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, mask):
        u = self.norm1(x)
        a = self.attn(u, u, u, attn_mask=mask, need_weights=False)[0]
        m = self.mem(u)
        g = torch.sigmoid(self.mix_x(u) + self.mix)
        x = x + torch.einsum("nbtd,nbtd->btd", torch.stack([g, 1 - g]), torch.stack([a, m]))
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        n = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n, device=tokens.device)
        x = self.tok(tokens) + self.pos.weight[:n]
        for b in self.blocks:
            x = b(x, mask)
        return self.head(self.norm(x))
