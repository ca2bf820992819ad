"""Leaky associative write as a custom autograd Function: one fused step with a hand-written backward pass."""
import torch
from torch import nn
import torch.nn.functional as F


class LeakyWrite(torch.autograd.Function):
    """M' = a * M + v k^T, with a: [D], M: [B, D, K], v: [B, D], k: [B, K]."""

    @staticmethod
    def forward(ctx, M, a, v, k):
        ctx.save_for_backward(M, a, v, k)
        return torch.baddbmm(M * a.view(1, -1, 1), v.unsqueeze(2), k.unsqueeze(1))

    @staticmethod
    def backward(ctx, grad):
        M, a, v, k = ctx.saved_tensors
        return (
            grad * a.view(1, -1, 1),
            (grad * M).sum(dim=(0, 2)),
            torch.bmm(grad, k.unsqueeze(2)).squeeze(2),
            torch.bmm(grad.transpose(1, 2), v.unsqueeze(2)).squeeze(2),
        )


class NeuralMemory(nn.Module):
    def __init__(self, d_model, d_key=32):
        super().__init__()
        self.d_key = d_key
        self.key = nn.Linear(d_model, d_key, bias=False)
        self.query = nn.Linear(d_model, d_key, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.novelty = nn.Sequential(nn.Linear(d_model, 32), nn.Tanh(), nn.Linear(32, d_model), nn.Sigmoid())
        self.retain = nn.Parameter(torch.randn(d_model) * 0.5 + 2)

    def forward(self, x):
        M = torch.zeros(x.shape[0], x.shape[2], self.d_key, dtype=x.dtype, device=x.device)
        a = torch.sigmoid(self.retain)
        recalled = torch.empty_like(x).unbind(1)
        recalled = list(recalled)
        for t, token in enumerate(x.unbind(1)):
            k = F.softmax(self.key(token), dim=-1)
            v = self.value(token)
            prediction = torch.bmm(M, k.unsqueeze(2)).squeeze(2)
            novelty = self.novelty(v - prediction)
            M = LeakyWrite.apply(M, a, novelty * v, k)
            recalled[t] = torch.bmm(M, F.softmax(self.query(token), dim=-1).unsqueeze(2)).squeeze(2)
        return torch.stack(recalled, dim=1)


class TransformerLayer(nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        assert d_model % n_heads == 0
        self.n_heads = n_heads
        self.to_qkv = nn.Linear(d_model, d_model * 3)
        self.to_out = nn.Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model)
        self.fuse = nn.Linear(d_model, n_heads)
        self.norms = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])
        self.ffn = nn.Sequential(nn.Linear(d_model, d_model * 4), nn.GELU(approximate="tanh"), nn.Linear(d_model * 4, d_model), nn.Dropout(dropout))

    def attend(self, x):
        B, T, D = x.shape
        q, k, v = (z.reshape(B, T, self.n_heads, -1).transpose(1, 2) for z in self.to_qkv(x).chunk(3, dim=-1))
        score = q @ k.transpose(-1, -2) / (D // self.n_heads) ** 0.5
        future = torch.arange(T, device=x.device)[None, :] > torch.arange(T, device=x.device)[:, None]
        weight = score.masked_fill(future, -torch.inf).softmax(-1)
        return self.to_out((weight @ v).transpose(1, 2).reshape(B, T, D))

    def forward(self, x):
        h = self.norms[0](x)
        attended, remembered = self.attend(h), self.memory(h)
        g = self.fuse(h).sigmoid().repeat_interleave(x.shape[-1] // self.n_heads, dim=-1)   # one gate a head
        x = x + (g * attended + (1 - g) * remembered)
        return x + self.ffn(self.norms[1](x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=1000, d_model=64, n_heads=4, n_layers=2, max_seq_len=256, dropout=0.0):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_seq_len, d_model)
        for i in range(n_layers):
            setattr(self, f"layer{i}", TransformerLayer(d_model, n_heads, dropout))
        self.n_layers = n_layers
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(tokens.shape[1], device=tokens.device))
        for i in range(self.n_layers):
            x = getattr(self, f"layer{i}")(x)
        return self.output(x)
