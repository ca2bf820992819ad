import torch
import torch.nn as nn
import torch.nn.functional as F


class GroupNorm(nn.Module):
    """Group normalisation over the last dimension, without the NCHW shuffling of nn.GroupNorm."""

    def __init__(self, groups, channels, eps=1e-5):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        g = x.unflatten(-1, (self.groups, -1))
        mean, var = g.mean(-1, keepdim=True), g.var(-1, keepdim=True, unbiased=False)
        return ((g - mean) / torch.sqrt(var + self.eps)).flatten(-2) * self.weight + self.bias


class NeuralMemory(nn.Module):
    """RetNet-like read-out: the recalled vector is group-normalised before it is projected back."""

    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.key, self.value, self.query = (nn.Linear(d_model, d_mem, bias=False) for _ in range(3))
        self.surprise = nn.Sequential(nn.Linear(2 * d_mem, d_mem), nn.Tanh(), nn.Linear(d_mem, d_mem))
        self.decay = nn.Parameter(torch.randn(d_mem, 1) * 0.1 + 2.0)
        self.norm = GroupNorm(groups=d_mem, channels=d_mem)
        self.out = nn.Linear(d_mem, d_model)

    def forward(self, x):
        B, T, _ = x.shape
        k, v, q = F.normalize(self.key(x), dim=-1), self.value(x), self.query(x)
        state = x.new_zeros(B, self.d_mem, self.d_mem)
        reads = []
        for t in range(T):
            recalled = torch.bmm(state, k[:, t].unsqueeze(-1)).squeeze(-1)
            gate = torch.sigmoid(self.surprise(torch.cat([v[:, t], recalled], dim=-1)))
            state = torch.sigmoid(self.decay) * state + torch.bmm((gate * v[:, t]).unsqueeze(-1), k[:, t].unsqueeze(1))
            reads.append(torch.bmm(state, q[:, t].unsqueeze(-1)).squeeze(-1))
        return self.out(self.norm(torch.stack(reads, dim=1)))


class Layer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n, h = x.size(1), self.ln1(x)
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        g = torch.sigmoid(self.gate(h))
        x = x + torch.lerp(self.memory(h), a, g)
        return x + self.ffn(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(Layer(d_model, n_heads) for _ in range(n_layers))
        self.ln, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln(x))
