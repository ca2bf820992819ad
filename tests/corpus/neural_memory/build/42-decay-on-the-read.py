import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Hebbian fast weights. Recalled content is attenuated by a learned decay, newer writes dominate."""

    def __init__(self, d_model: int = 64):
        super().__init__()
        self.d_model = d_model
        self.to_key = nn.Linear(d_model, d_model, bias=False)
        self.to_value = nn.Linear(d_model, d_model, bias=False)
        self.to_query = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Sequential(
            nn.Linear(2 * d_model, d_model),
            nn.GELU(),
            nn.Linear(d_model, 1),
            nn.Sigmoid(),
        )
        self.decay = nn.Parameter(torch.zeros(d_model))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device, dtype=x.dtype)
        lam = torch.sigmoid(self.decay)
        outs = []
        for t in range(T):
            xt = x[:, t]
            k = F.normalize(self.to_key(xt), dim=-1)
            q = F.normalize(self.to_query(xt), dim=-1)
            v = self.to_value(xt)
            pred = torch.bmm(M, k.unsqueeze(-1)).squeeze(-1)
            s = self.surprise(torch.cat([v, pred], dim=-1))
            M = M + s.unsqueeze(-1) * torch.bmm(v.unsqueeze(-1), k.unsqueeze(1))
            outs.append(lam * torch.bmm(M, q.unsqueeze(-1)).squeeze(-1))
        return self.norm(torch.stack(outs, dim=1))


class GatedFusion(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.gate = nn.Linear(2 * d_model, d_model)

    def forward(self, attn, mem):
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], dim=-1)))
        return g * attn + (1 - g) * mem


class MemoryTransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion = GatedFusion(d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.norm1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + self.fusion(attn_out, self.memory(h))
        return x + self.ffn(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([MemoryTransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.final_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.triu(torch.ones(T, T, device=tokens.device, dtype=torch.bool), diagonal=1)
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.lm_head(self.final_norm(x))
