import torch
from torch import nn
from torch.nn.functional import normalize, gelu


class NeuralMemory(nn.Module):
    """The memory is a coroutine that lives as long as the sequence: it is sent moments and answers with recollections."""

    def __init__(self, d=64):
        super().__init__()
        self.wk, self.wv, self.wq = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.mismatch = nn.Linear(d, d, bias=False)
        self.context = nn.Linear(d, d)
        self.forget = nn.Parameter(torch.full((d, 1), -3.0))      # share that is lost in a step

    def remember(self, batch, d, like):
        M = like.new_zeros(batch, d, d)
        reply = None
        while True:
            x = yield reply
            k, v = normalize(self.wk(x), dim=-1), self.wv(x)
            old = torch.baddbmm(v.unsqueeze(2), M, k.unsqueeze(2), alpha=-1).squeeze(2)     # v - M k
            s = torch.sigmoid(self.mismatch(old) + self.context(v))
            M = M - self.forget.sigmoid() * M + (s * v).unsqueeze(2) * k.unsqueeze(1)
            reply = torch.bmm(M, self.wq(x).unsqueeze(2)).squeeze(2)

    def forward(self, x):
        mind = self.remember(x.size(0), x.size(2), x)
        next(mind)
        try:
            return torch.stack([mind.send(moment) for moment in x.unbind(dim=1)], dim=1)
        finally:
            mind.close()


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, heads, batch_first=True)
        self.memory = NeuralMemory(d)
        self.gate = nn.Sequential(nn.Linear(2 * d, d // 2), nn.GELU(), nn.Linear(d // 2, d), nn.Sigmoid())
        self.w_in, self.w_out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x, mask):
        h = self.norm(x)
        a = self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.memory(h)
        g = self.gate(torch.cat((a, m), -1))
        x = x + g * a + m - g * m
        return x + self.w_out(gelu(self.w_in(self.norm2(x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embed, self.position = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.final, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        n = tokens.size(1)
        mask = torch.full((n, n), True, device=tokens.device).triu(1)
        x = self.embed(tokens) + self.position(torch.arange(n, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.final(x))
