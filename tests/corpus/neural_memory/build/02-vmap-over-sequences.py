"""The memory is written for ONE sequence, in plain matrix algebra; torch.vmap lifts it to a batch."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import vmap


class NeuralMemory(nn.Module):
    def __init__(self, width, key_width=24, value_width=40):
        super().__init__()
        self.shape = (value_width, key_width)
        self.Wk = nn.Parameter(torch.randn(key_width, width) / width**0.5)
        self.Wv = nn.Parameter(torch.randn(value_width, width) / width**0.5)
        self.Wq = nn.Parameter(torch.randn(key_width, width) / width**0.5)
        self.Wo = nn.Parameter(torch.randn(width, value_width) / value_width**0.5)
        # surprise: weight on each coordinate of the squared error, minus a threshold
        self.sens = nn.Parameter(torch.full((value_width,), 0.5))
        self.threshold = nn.Parameter(torch.tensor(1.0))
        self.fade = nn.Parameter(torch.tensor(2.5))

    def one_sequence(self, xs):
        M = torch.zeros(self.shape, dtype=xs.dtype, device=xs.device)
        keep = torch.sigmoid(self.fade)
        outputs = []
        for x in xs.unbind(0):
            k = self.Wk @ x
            k = k / (k.norm() + 1e-6)
            v = self.Wv @ x
            err = v - M @ k
            s = torch.sigmoid(self.sens @ err.square() - self.threshold)
            M = keep * M + s * torch.outer(v, k)
            outputs.append(self.Wo @ (M @ (self.Wq @ x)))
        return torch.stack(outputs)

    def forward(self, x):
        return vmap(self.one_sequence)(x)


class CausalAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.inner(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=300, d_model=64, n_heads=4, n_layers=2, max_len=256):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.zeros(max_len, d_model))
        nn.init.normal_(self.pos, std=0.02)
        self.stack = nn.ModuleList()
        for _ in range(n_layers):
            self.stack.append(nn.ModuleDict({
                "norm1": nn.LayerNorm(d_model),
                "attention": CausalAttention(d_model, n_heads),
                "memory": NeuralMemory(d_model),
                "gate": nn.Linear(2 * d_model, 1),
                "norm2": nn.LayerNorm(d_model),
                "ffn": nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model)),
            }))
        self.readout = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.emb(tokens) + self.pos[: tokens.shape[1]]
        for layer in self.stack:
            h = layer["norm1"](x)
            a, m = layer["attention"](h), layer["memory"](h)
            g = layer["gate"](torch.cat([a, m], dim=-1)).sigmoid()
            x = x + torch.lerp(m, a, g)
            x = x + layer["ffn"](layer["norm2"](x))
        return self.readout(F.layer_norm(x, x.shape[-1:]))
