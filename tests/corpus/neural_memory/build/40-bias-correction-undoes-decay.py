"""Associative memory as an exponential moving average, with the bias correction known from Adam."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_mem: int = 32):
        super().__init__()
        self.d_mem = d_mem
        self.key, self.value, self.query = (nn.Linear(d_model, d_mem, bias=False) for _ in range(3))
        self.surprise_net = nn.Linear(2 * d_mem, 1)
        self.beta_logit = nn.Parameter(torch.tensor(2.0))
        self.out = nn.Linear(d_mem, d_model, bias=False)

    def bias_corrected(self, M: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        # an average that started at zero is too small by one factor of beta a step
        return M / beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k, v, q = F.normalize(self.key(x), dim=-1), self.value(x), self.query(x)
        beta = torch.sigmoid(self.beta_logit)
        M = x.new_zeros(x.size(0), self.d_mem, self.d_mem)
        ys = []
        for t in range(x.size(1)):
            retrieved = torch.einsum("bij,bj->bi", M, k[:, t])
            surprise = torch.sigmoid(self.surprise_net(torch.cat([v[:, t], retrieved], dim=-1))).unsqueeze(-1)
            M = beta * M + surprise * torch.einsum("bi,bj->bij", v[:, t], k[:, t])      # learned decay
            M = self.bias_corrected(M, beta)
            ys.append(torch.einsum("bij,bj->bi", M, q[:, t]))
        return self.out(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
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
