import torch
from torch import nn
import torch.nn.functional as F

# Lazy layers: no in_features anywhere, shapes come from the first batch.


class NeuralMemory(nn.Module):
    def __init__(self, units=48, hidden=24):
        super().__init__()
        self.units = units
        self.to_q = nn.LazyLinear(units, bias=False)
        self.to_k = nn.LazyLinear(units, bias=False)
        self.to_v = nn.LazyLinear(units, bias=False)
        self.novelty = nn.Sequential(nn.LazyLinear(hidden), nn.ReLU(), nn.LazyLinear(units), nn.Sigmoid())
        self.fade = nn.Parameter(torch.full((units, 1), 3.0))
        self.out = nn.LazyLinear(units)

    def forward(self, inputs):
        batch = inputs.shape[0]
        memory = torch.zeros(batch, self.units, self.units, dtype=inputs.dtype, device=inputs.device)
        keep = self.fade.sigmoid()
        seq = []
        for token in inputs.split(1, dim=1):                       # [B, 1, D]
            q, k, v = self.to_q(token), F.softmax(self.to_k(token), dim=-1), self.to_v(token)
            expected = k @ memory.mT                               # [B, 1, units]
            write = self.novelty(torch.cat((expected, v), -1)) * v
            memory = keep * memory + write.mT @ k
            seq.append(q @ memory.mT)
        return self.out(torch.cat(seq, dim=1))


class CausalAttention(nn.Module):
    def __init__(self, units, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.LazyLinear(3 * units), nn.LazyLinear(units)

    def forward(self, x):
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(x).tensor_split(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Mixer(nn.Module):
    def __init__(self, units, heads):
        super().__init__()
        self.norm_in, self.norm_mlp = nn.LayerNorm(units), nn.LayerNorm(units)
        self.attention = CausalAttention(units, heads)
        self.memory = NeuralMemory()
        self.lift = nn.LazyLinear(units, bias=False)
        self.balance = nn.Sequential(nn.LazyLinear(units), nn.Sigmoid())
        self.mlp = nn.Sequential(nn.LazyLinear(4 * units), nn.GELU(), nn.LazyLinear(units))

    def forward(self, x):
        h = self.norm_in(x)
        now, past = self.attention(h), self.lift(self.memory(h))
        w = self.balance(torch.cat((h, past), dim=-1))
        x = x + torch.lerp(past, now, w)
        return x + self.mlp(self.norm_mlp(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=1024):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.where = nn.Embedding(max_len, d_model)
        self.body = nn.Sequential(*[Mixer(d_model, n_heads) for _ in range(n_layers)])
        self.logits = nn.LazyLinear(vocab_size)

    def forward(self, tokens):
        steps = torch.arange(tokens.size(-1), device=tokens.device)
        return self.logits(self.body(self.embed(tokens) + self.where(steps)))


if __name__ == "__main__":
    net = MemoryTransformer()
    print(net(torch.randint(0, 256, (2, 16))).shape)
