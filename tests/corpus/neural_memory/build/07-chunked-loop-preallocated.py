import torch
import torch.nn as nn
import torch.nn.functional as F

CHUNK = 4


class NeuralMemory(nn.Module):
    """Tokens are projected chunk by chunk (to bound activations), the state still moves one token at a time."""

    def __init__(self, d_model=64, d_k=16, d_v=32):
        super().__init__()
        self.d_k, self.d_v = d_k, d_v
        self.inp = nn.Linear(d_model, 2 * d_k + d_v)
        self.a = nn.Parameter(torch.empty(1, d_v, 1).uniform_(1, 3))
        self.predict = nn.Linear(d_v, d_v)
        self.actual = nn.Linear(d_v, d_v)
        self.out = nn.Linear(d_v, d_model)

    def run_chunk(self, chunk, state):
        q, k, v = self.inp(chunk).split([self.d_k, self.d_k, self.d_v], dim=-1)
        k = F.normalize(k, dim=-1)
        y = []
        for i in range(chunk.size(1)):
            k_i, v_i = k[:, i].unsqueeze(1), v[:, i].unsqueeze(2)
            r_i = torch.sum(state * k_i, dim=2)
            s_i = torch.sigmoid(self.actual(v[:, i]) - self.predict(r_i)).unsqueeze(2)
            state = torch.addcmul(state * torch.sigmoid(self.a), s_i * v_i, k_i)
            y.append(torch.sum(state * q[:, i].unsqueeze(1), dim=2))
        return torch.stack(y, dim=1), state

    def forward(self, x):
        state = torch.zeros(x.size(0), self.d_v, self.d_k, device=x.device, dtype=x.dtype)
        pieces = []
        for start in range(0, x.size(1), CHUNK):
            y, state = self.run_chunk(x[:, start:start + CHUNK], state)
            pieces.append(y)
        return self.out(torch.cat(pieces, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.gate_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate_proj(h))
        fused = torch.empty_like(a)
        fused = torch.add(torch.mul(a, g), torch.mul(m, 1 - g))
        x = x + fused
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
