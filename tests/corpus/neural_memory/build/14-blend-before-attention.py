import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.k, self.v, self.q = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.surprise_proj = nn.Linear(dim, 1)
        self.decay = nn.Parameter(torch.randn(dim) * 0.1 + 2)

    def step(self, M, x):
        k, v = F.normalize(self.k(x), dim=-1), self.v(x)
        pred = torch.einsum("bij,bj->bi", M, k)
        s = torch.sigmoid(self.surprise_proj(v - pred))
        M = torch.sigmoid(self.decay)[:, None] * M + torch.einsum("b,bi,bj->bij", s[:, 0], v, k)
        return M, torch.einsum("bij,bj->bi", M, self.q(x))

    def forward(self, x):
        M = torch.zeros(x.size(0), x.size(-1), x.size(-1), device=x.device)
        reads = []
        for t in range(x.size(1)):
            M, r = self.step(M, x[:, t])
            reads.append(r)
        return torch.stack(reads, 1)


class MemoryTransformer(nn.Module):
    """Memory enriches the embeddings, then an ordinary transformer reads them."""

    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d_model, n_heads, 4 * d_model, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(n_layers)
        )
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        emb = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        mem = self.memory(emb)
        g = torch.sigmoid(self.gate(torch.cat([emb, mem], dim=-1)))
        x = g * emb + (1 - g) * mem
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=tokens.device)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(x)
