"""NeuralMemory is a light-weight state machine; the weights belong to the block, so that the optimizer groups stay tidy."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory:
    def __init__(self, weights: nn.ModuleDict, decay: nn.Parameter):
        self.w, self.decay = weights, decay
        self.M = None

    def reset(self, batch, size, like):
        self.M = like.new_zeros(batch, size, size)

    def step(self, x):
        k, v, q = F.normalize(self.w["key"](x), dim=-1), self.w["value"](x), self.w["query"](x)
        retrieved = torch.einsum("bij,bj->bi", self.M, k)
        surprise = torch.sigmoid(self.w["surprise"](v - retrieved))
        self.M = torch.sigmoid(self.decay) * self.M + torch.einsum("bi,bj->bij", surprise * v, k)
        return self.w["out"](torch.einsum("bij,bj->bi", self.M, q))

    def __call__(self, x):
        self.reset(x.size(0), self.w["key"].out_features, x)
        return torch.stack([self.step(x[:, t]) for t in range(x.size(1))], dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads, d_mem=32):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem_weights = nn.ModuleDict({
            "key": nn.Linear(d_model, d_mem), "value": nn.Linear(d_model, d_mem), "query": nn.Linear(d_model, d_mem),
            "surprise": nn.Linear(d_mem, d_mem), "out": nn.Linear(d_mem, d_model),
        })
        self.mem_decay = nn.Parameter(torch.tensor(2.0))
        self.gate = nn.Linear(2 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = NeuralMemory(self.mem_weights, self.mem_decay)(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
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
