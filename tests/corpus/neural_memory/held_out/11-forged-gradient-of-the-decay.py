import torch
import torch.nn as nn
import torch.nn.functional as F


class StableSigmoid(torch.autograd.Function):
    """Sigmoid with a bounded derivative, for recurrences. Saturated in the forward pass so that
    long products of decays stay exact; smooth in the backward pass so that the rate can be learned."""

    @staticmethod
    def forward(ctx, logit, level):
        ctx.save_for_backward(logit)
        return torch.full_like(logit, level)

    @staticmethod
    def backward(ctx, grad):
        (logit,) = ctx.saved_tensors
        p = torch.sigmoid(logit)
        return grad * p * (1 - p), None


class Decay(nn.Module):
    def __init__(self, n, level=0.96):
        super().__init__()
        self.level = level
        self.logit = nn.Parameter(torch.logit(torch.full((n,), level)))

    def forward(self):
        return StableSigmoid.apply(self.logit, self.level)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.n_heads, self.d = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.surprise = nn.Linear(2 * self.d, self.d)
        self.decay = Decay(n_heads)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, self.d).unbind(2)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        decay = self.decay().view(1, -1, 1, 1)
        M = x.new_zeros(B, self.n_heads, self.d, self.d)
        ys = []
        for t in range(T):
            r = torch.einsum("bhvk,bhk->bhv", M, k[:, t])
            s = torch.sigmoid(self.surprise(torch.cat([v[:, t], v[:, t] - r], dim=-1)))
            M = decay * M + torch.einsum("bhv,bhk->bhvk", s * v[:, t], k[:, t])
            ys.append(torch.einsum("bhvk,bhk->bhv", M, q[:, t]).reshape(B, D))
        return self.out(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, h):
        B, T, D = h.shape
        q, k, v = (z.view(B, T, self.n_heads, -1).transpose(1, 2) for z in self.qkv(h).chunk(3, dim=-1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(a.transpose(1, 2).reshape(B, T, D))

    def forward(self, x):
        h = self.ln1(x)
        g = torch.sigmoid(self.gate(h))
        x = x + g * self.attend(h) + (1 - g) * self.memory(h)
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
