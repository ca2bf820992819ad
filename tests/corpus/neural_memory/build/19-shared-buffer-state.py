"""A memory that persists: the association matrix is a buffer of the module and is updated while the model reads."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.ReLU(), nn.Linear(d_model // 2, 1))
        self.decay = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("memory", torch.zeros(d_model, d_model))

    def reset(self):
        self.memory.zero_()

    def forward(self, x):
        M = self.memory
        outputs = []
        for t in range(x.size(1)):
            k = F.normalize(self.W_k(x[:, t]), dim=-1)           # [B, D]
            v = self.W_v(x[:, t])
            retrieved = k @ M.t()
            surprise = torch.sigmoid(self.surprise(v - retrieved))
            update = torch.einsum("bi,bj->ij", surprise * v, k) / x.size(0)
            M = torch.sigmoid(self.decay) * M + update
            outputs.append(self.W_q(x[:, t]) @ M.t())
        self.memory = M.detach().clone()
        return torch.stack(outputs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.Sigmoid())
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = self.gate(torch.cat([a, m], dim=-1))
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

    def reset_memory(self):
        for module in self.modules():
            if isinstance(module, NeuralMemory):
                module.reset()

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
