import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """M_t = decay * M_{t-1} + gate_t * (v_t k_t^T), read out with q_t."""

    def __init__(self, d_model=64):
        super().__init__()
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        self.write_gate = nn.Linear(d_model, 1)  # learns which tokens are novel
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device, dtype=x.dtype)
        outs = []
        for t in range(T):
            xt = x[:, t, :]
            k = F.normalize(self.W_k(xt), dim=-1)
            v = self.W_v(xt)
            q = self.W_q(xt)
            # surprising tokens open the gate
            s = torch.sigmoid(self.write_gate(xt)).unsqueeze(-1)
            M = torch.sigmoid(self.decay) * M + s * torch.einsum('bi,bj->bij', v, k)
            outs.append(torch.einsum('bij,bj->bi', M, q))
        return torch.stack(outs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.mem(h)
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
