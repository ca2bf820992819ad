"""Test-time training: the memory is a linear map whose weights take a gradient step on ||M k - v||^2 at every token.

The gradient is taken with torch.func; how far the step goes is decided by a learned gate on the inner loss' residual.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import grad, vmap


def inner_loss(M, k, v):
    return 0.5 * (M @ k - v).square().sum()


batched_grad = vmap(grad(inner_loss))


class NeuralMemory(nn.Module):
    def __init__(self, d_model, d_mem=24):
        super().__init__()
        self.d_mem = d_mem
        self.proj_k = nn.Linear(d_model, d_mem, bias=False)
        self.proj_v = nn.Linear(d_model, d_mem, bias=False)
        self.proj_q = nn.Linear(d_model, d_mem, bias=False)
        self.step_size = nn.Linear(2 * d_mem + d_model, 1)
        self.weight_decay = nn.Linear(d_model, 1)
        nn.init.constant_(self.weight_decay.bias, -4.0)
        self.up = nn.Linear(d_mem, d_model, bias=False)

    def forward(self, x):
        M = torch.zeros(x.size(0), self.d_mem, self.d_mem, device=x.device, dtype=x.dtype)
        y = []
        for x_t in x.transpose(0, 1):
            k, v, q = F.normalize(self.proj_k(x_t), dim=-1), self.proj_v(x_t), self.proj_q(x_t)
            g = batched_grad(M, k, v)
            v_hat = torch.bmm(M, k[..., None])[..., 0]
            eta = torch.sigmoid(self.step_size(torch.cat((v, v_hat, x_t), -1)))[..., None]
            alpha = torch.sigmoid(self.weight_decay(x_t))[..., None]
            M = (1 - alpha) * M - eta * g
            y.append(torch.bmm(M, q[..., None])[..., 0])
        return self.up(torch.stack(y, 1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.c_attn, self.c_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.n_heads = n_heads
        self.ttt = NeuralMemory(d_model)
        self.g = nn.Parameter(torch.zeros(d_model))
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.ln_1(x)
        q, k, v = (z.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for z in self.c_attn(h).chunk(3, -1))
        a = self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        g = torch.sigmoid(self.g + 0.1 * h)
        x = x + torch.lerp(self.ttt(h), a, g)
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, block_size=256):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocab_size, d_model),
            wpe=nn.Embedding(block_size, d_model),
            h=nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)]),
            ln_f=nn.LayerNorm(d_model),
        ))
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.transformer.wte(tokens) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))
