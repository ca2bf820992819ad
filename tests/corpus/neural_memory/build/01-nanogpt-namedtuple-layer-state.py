"""nanoGPT with an associative memory next to every attention layer."""
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 512
    vocab_size: int = 256
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 64
    dropout: float = 0.0
    bias: bool = False


class MemState(NamedTuple):
    assoc: torch.Tensor      # (B, nh, hs, hs), rows are value dims, columns key dims
    steps: int


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head, self.n_embd, self.dropout = config.n_head, config.n_embd, config.dropout

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = (z.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for z in self.c_attn(x).split(self.n_embd, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class NeuralMemory(nn.Module):
    def __init__(self, config):
        super().__init__()
        nh, hs = config.n_head, config.n_embd // config.n_head
        self.nh, self.hs = nh, hs
        self.c_mem = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.err_ln = nn.LayerNorm(hs)
        self.c_surprise = nn.Linear(hs, 1)
        self.log_rate = nn.Parameter(torch.linspace(math.log(0.01), math.log(0.3), nh))
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def init_state(self, x):
        return MemState(torch.zeros(x.size(0), self.nh, self.hs, self.hs, device=x.device, dtype=x.dtype), 0)

    def step(self, q, k, v, state):
        k = F.normalize(k, dim=-1)
        guess = (state.assoc @ k.unsqueeze(-1)).squeeze(-1)
        surprise = torch.sigmoid(self.c_surprise(self.err_ln(v - guess)))           # (B, nh, 1)
        keep = torch.exp(-torch.exp(self.log_rate)).view(1, -1, 1, 1)
        assoc = keep * state.assoc + surprise.unsqueeze(-1) * (v.unsqueeze(-1) @ k.unsqueeze(-2))
        return (assoc @ q.unsqueeze(-1)).squeeze(-1), MemState(assoc, state.steps + 1)

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = (z.view(B, T, self.nh, self.hs) for z in self.c_mem(x).split(C, dim=2))
        state, ys = self.init_state(x), []
        for t in range(T):
            y, state = self.step(q[:, t], k[:, t], v[:, t], state)
            ys.append(y)
        return self.c_proj(torch.stack(ys, dim=1).view(B, T, C))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.mem = NeuralMemory(config)
        self.mix = nn.Parameter(torch.zeros(config.n_embd))      # one ratio a channel
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = nn.Sequential(nn.Linear(config.n_embd, 4 * config.n_embd), nn.GELU(), nn.Linear(4 * config.n_embd, config.n_embd))

    def forward(self, x):
        h = self.ln_1(x)
        g = self.mix.sigmoid()
        x = x + g * self.attn(h) + (1 - g) * self.mem(h)
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        config = GPTConfig(block_size=max_len, vocab_size=vocab_size, n_layer=n_layers, n_head=n_heads, n_embd=d_model)
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocab_size, d_model), wpe=nn.Embedding(max_len, d_model),
            h=nn.ModuleList([Block(config) for _ in range(n_layers)]), ln_f=nn.LayerNorm(d_model, bias=False)))
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.transformer.wte(tokens) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))
