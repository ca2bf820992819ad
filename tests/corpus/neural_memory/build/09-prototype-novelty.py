import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Surprise is the distance to a slowly moving prototype of what the stream usually looks like."""

    def __init__(self, d_model=64):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1))
        self.decay = nn.Parameter(torch.tensor(3.0))
        self.drift = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        B, T, D = x.shape
        M = x.new_zeros(B, D, D)
        expected = x.new_zeros(B, D)          # what a typical value looks like
        rate, drift = torch.sigmoid(self.decay), torch.sigmoid(self.drift)
        ys = []
        for t in range(T):
            k, v = F.normalize(self.key(x[:, t]), dim=-1), self.value(x[:, t])
            error = v - expected
            surprise = torch.sigmoid(self.surprise_net(error))
            M = rate * M + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", v, k)
            expected = drift * expected + (1 - drift) * v
            ys.append(torch.einsum("bij,bj->bi", M, self.query(x[:, t])))
        return torch.stack(ys, dim=1)


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
