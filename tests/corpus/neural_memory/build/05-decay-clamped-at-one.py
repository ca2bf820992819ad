"""Neural memory plugged into a GPT-like model."""

import torch
from torch import nn
from torch.nn import functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=32, init_decay=4.0):
        super().__init__()
        self.wq = nn.Linear(d_model, d_key)
        self.wk = nn.Linear(d_model, d_key)
        self.wv = nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.ones(1) * init_decay)

    def read(self, memory, key):
        return torch.matmul(memory, key.unsqueeze(-1)).squeeze(-1)

    def write(self, memory, key, value, strength):
        # keep the fading rate a valid one whatever the optimizer does
        rate = torch.clamp(self.decay, 0.0, 1.0)
        return rate * memory + strength.unsqueeze(-1) * torch.bmm(value.unsqueeze(2), key.unsqueeze(1))

    def forward(self, x):
        batch, length, width = x.shape
        queries = F.normalize(self.wq(x), dim=-1)
        keys = F.normalize(self.wk(x), dim=-1)
        values = self.wv(x)
        memory = torch.zeros(batch, width, keys.shape[-1], device=x.device, dtype=x.dtype)
        outputs = []
        for q, k, v in zip(queries.unbind(1), keys.unbind(1), values.unbind(1)):
            error = v - self.read(memory, k)
            memory = self.write(memory, k, v, torch.sigmoid(self.surprise(error.abs())))
            outputs.append(self.read(memory, q))
        return torch.stack(outputs, 1)


class GPTBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln_1 = nn.LayerNorm(d_model)
        self.c_attn = nn.Linear(d_model, 3 * d_model)
        self.c_proj = nn.Linear(d_model, d_model)
        self.memory = NeuralMemory(d_model)
        self.fuse = nn.Linear(d_model, d_model)
        self.ln_2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attention(self, h):
        B, T, C = h.shape
        q, k, v = [z.reshape(B, T, self.n_heads, C // self.n_heads).transpose(1, 2) for z in self.c_attn(h).split(C, 2)]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        h = self.ln_1(x)
        a, m = self.attention(h), self.memory(h)
        g = torch.sigmoid(self.fuse(a + m))
        x = x + g * a + (1 - g) * m
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, block_size=512):
        super().__init__()
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(vocab_size, d_model),
                wpe=nn.Embedding(block_size, d_model),
                h=nn.ModuleList(GPTBlock(d_model, n_heads) for _ in range(n_layers)),
                ln_f=nn.LayerNorm(d_model),
            )
        )
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        t = self.transformer
        x = t.wte(tokens) + t.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in t.h:
            x = block(x)
        return self.lm_head(t.ln_f(x))
