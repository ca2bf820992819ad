import torch
from torch import nn, Tensor
from torch.nn import functional as F


class NeuralMemory(nn.Module):
    decay: Tensor

    def __init__(self, size: int = 48, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, size * 3, bias=False)
        self.gate = nn.Linear(size // heads, size // heads)
        # RetNet's schedule of fading: the further the head, the longer it remembers
        self.register_buffer("decay", 1 - 2.0 ** (-3 - torch.arange(heads, dtype=torch.float32)))
        self.merge = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).unbind(2)
        k = F.normalize(k, dim=-1)
        memory = x.new_zeros(b, self.heads, c // self.heads, c // self.heads)
        fade = self.decay.view(1, -1, 1, 1)
        reads = []
        for t in range(n):
            recalled = (memory * k[:, t].unsqueeze(-2)).sum(-1)
            surprise = torch.sigmoid(self.gate((v[:, t] - recalled).abs()))
            memory = fade * memory + (surprise * v[:, t]).unsqueeze(-1) * k[:, t].unsqueeze(-2)
            reads.append((memory * q[:, t].unsqueeze(-2)).sum(-1).flatten(1))
        return self.merge(torch.stack(reads, 1))


class Stage(nn.Module):
    def __init__(self, size: int, heads: int):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.heads = heads
        self.qkv, self.o = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mem = NeuralMemory(size)
        self.balance = nn.Linear(size, size)
        self.ff = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        b, n, c = h.shape
        q, k, v = self.qkv(h).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        a = self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, c))
        x = x + torch.lerp(self.mem(h), a, self.balance(h).sigmoid())
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 48, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.inp = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.stages = nn.Sequential(*[Stage(d_model, n_heads) for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.stages(self.inp(tokens) + self.pos.weight[: tokens.size(1)]))
