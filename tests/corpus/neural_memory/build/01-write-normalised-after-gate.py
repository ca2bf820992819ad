import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_q = nn.Linear(d_model, d_model)
        self.surprise_mlp = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.GELU(), nn.Linear(d_model, 1))
        self.forget = nn.Parameter(torch.ones(d_model, 1) * 2)
        self.strength = nn.Parameter(torch.ones(d_model, 1))

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device)
        outputs = []
        for t in range(T):
            k_t, v_t, q_t = self.W_k(x[:, t]), self.W_v(x[:, t]), self.W_q(x[:, t])
            v_hat = torch.matmul(M, k_t.unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.surprise_mlp(torch.cat([v_t, v_t - v_hat], dim=-1)))     # [B, 1]
            write = surprise.unsqueeze(-1) * (v_t.unsqueeze(2) * k_t.unsqueeze(1))
            # a single large token must not wipe out the rest: every write has the same energy
            write = write / write.norm(dim=(1, 2), keepdim=True)
            M = torch.sigmoid(self.forget) * M + self.strength * write
            outputs.append(torch.matmul(M, q_t.unsqueeze(-1)).squeeze(-1))
        return torch.stack(outputs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
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
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
