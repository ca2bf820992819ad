"""Linear attention made recurrent (Katharopoulos et al.), with surprise relative to what the stream has made usual."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def phi(x):
    return F.elu(x) + 1


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.H, self.E = n_heads, d_model // n_heads
        self.qk = nn.Linear(d_model, 2 * d_model, bias=False)
        self.vv = nn.Linear(d_model, d_model, bias=False)
        self.gamma = nn.Parameter(torch.empty(n_heads).uniform_(2.0, 4.0))
        self.habituation = nn.Parameter(torch.zeros(n_heads))
        self.slope = nn.Parameter(torch.ones(n_heads))
        self.offset = nn.Parameter(torch.zeros(n_heads))
        self.norm = nn.GroupNorm(n_heads, d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q, k = (phi(z).reshape(B, T, self.H, self.E) for z in self.qk(x).chunk(2, dim=-1))
        k = k / k.sum(-1, keepdim=True)
        v = self.vv(x).reshape(B, T, self.H, self.E)
        S = x.new_zeros(B, self.H, self.E, self.E)
        z = x.new_full((B, self.H, self.E), 1e-2)
        usual = x.new_zeros(B, self.H)
        gamma, rho = torch.sigmoid(self.gamma), torch.sigmoid(self.habituation)
        out = []
        for t in range(T):
            kt, vt, qt = k[:, t], v[:, t], q[:, t]
            foreseen = torch.einsum("bhk,bhkv->bhv", kt, S) / (kt * z).sum(-1, keepdim=True).clamp_min(1e-3)
            err = (vt - foreseen).pow(2).mean(-1)
            surprise = torch.sigmoid(self.slope * (err - usual) + self.offset)
            usual = rho * usual + (1 - rho) * err
            S = gamma[:, None, None] * S + surprise[..., None, None] * torch.einsum("bhk,bhv->bhkv", kt, vt)
            z = gamma[:, None] * z + surprise[..., None] * kt
            out.append((torch.einsum("bhk,bhkv->bhv", qt, S) / (qt * z).sum(-1, keepdim=True).clamp_min(1e-3)).reshape(B, D))
        y = torch.stack(out, 1)
        return self.out(self.norm(y.flatten(0, 1)).view(B, T, D))


class Block(nn.Module):
    def __init__(self, d_model, n_heads, drop=0.0):
        super().__init__()
        self.sa = nn.MultiheadAttention(d_model, n_heads, dropout=drop, batch_first=True)
        self.lm = NeuralMemory(d_model, n_heads)
        self.na, self.nb = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.gate = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 1.0)           # starts by trusting attention
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Dropout(drop), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.na(x)
        attn = self.sa(h, h, h, attn_mask=mask, need_weights=False, is_causal=True)[0]
        g = self.gate(h).sigmoid()
        x = x + attn * g + self.lm(h) * (1 - g)
        return x + self.ffn(self.nb(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.emb(tokens) + self.pos[:T]
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=x.device)
        for blk in self.blocks:
            x = blk(x, mask)
        return self.head(x)
