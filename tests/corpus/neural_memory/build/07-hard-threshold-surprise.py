import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, threshold=0.5, sharpness=4.0):
        super().__init__()
        self.threshold, self.sharpness = threshold, sharpness
        self.q, self.k, self.v = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        b, t, d = x.shape
        M = torch.zeros(b, d, d, device=x.device)
        outs = []
        for i in range(t):
            k, v = F.normalize(self.k(x[:, i]), dim=-1), self.v(x[:, i])
            err = (v - torch.einsum("bij,bj->bi", M, k)).norm(dim=-1, keepdim=True)
            surprise = (err > self.threshold).to(x.dtype)
            M = torch.sigmoid(self.decay) * M + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", v, k)
            outs.append(torch.einsum("bij,bj->bi", M, self.q(x[:, i])))
        return torch.stack(outs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.mix = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), need_weights=False)
        g = torch.sigmoid(self.mix)
        x = x + (g * self.memory(h) + (1 - g) * a)
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
