import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4, dropout=0.1):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.o_proj = nn.Linear(d_model, d_model)
        self.surprise_fc1 = nn.Linear(2 * self.d_head, self.d_head)
        self.surprise_fc2 = nn.Linear(self.d_head, 1)
        self.decay_logit = nn.Parameter(torch.full((1, n_heads, 1, 1), math.log(0.95 / 0.05)))
        self.drop = nn.Dropout(dropout)

    def _heads(self, t):
        return t.view(t.size(0), t.size(1), self.n_heads, self.d_head)

    def forward(self, x):
        q, k, v = self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        k = F.normalize(k, p=2, dim=-1)
        B, T = x.shape[:2]
        M = torch.zeros(B, self.n_heads, self.d_head, self.d_head, device=x.device, dtype=x.dtype)
        decay = torch.sigmoid(self.decay_logit)
        outs = []
        for t in range(T):
            q_t, k_t, v_t = q[:, t], k[:, t], v[:, t]
            retrieved = torch.matmul(M, k_t.unsqueeze(-1)).squeeze(-1)
            prediction_error = v_t - retrieved
            feats = self.drop(F.gelu(self.surprise_fc1(torch.cat([v_t, prediction_error], dim=-1))))
            surprise = torch.sigmoid(self.surprise_fc2(feats))                          # [B, H, 1]
            M = decay * M + surprise.unsqueeze(-1) * torch.matmul(v_t.unsqueeze(-1), k_t.unsqueeze(-2))
            outs.append(torch.matmul(M, q_t.unsqueeze(-1)).squeeze(-1).reshape(B, -1))
        return self.drop(self.o_proj(torch.stack(outs, dim=1)))


class Block(nn.Module):
    def __init__(self, d_model, n_heads, dropout):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads, dropout)
        self.fuse_gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model), nn.Dropout(dropout))

    def forward(self, x, mask):
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.memory(h)
        gate = torch.sigmoid(self.fuse_gate(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + gate * attn_out + (1.0 - gate) * mem_out
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, dropout=0.1):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(d_model, n_heads, dropout) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tok.weight
        nn.init.normal_(self.tok.weight, std=0.02)

    def forward(self, tokens):
        B, T = tokens.shape
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), diagonal=1)
        x = self.drop(self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device)))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.ln_f(x))
