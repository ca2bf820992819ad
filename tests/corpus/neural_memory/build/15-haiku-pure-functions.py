# Port of the haiku prototype. hk.transform gives (init, apply) pairs; kept that way here so that the checkpoints map 1:1.
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory:
    """init / apply pair, as in hk.transform. Pure: no state outside `params`."""

    def __init__(self, d_model=64, d_key=32, d_value=32):
        self.d_model, self.d_key, self.d_value = d_model, d_key, d_value

    def init(self):
        def w(i, o):
            return nn.Parameter(torch.randn(i, o) / math.sqrt(i))
        return nn.ParameterDict({
            "query": w(self.d_model, self.d_key),
            "key": w(self.d_model, self.d_key),
            "value": w(self.d_model, self.d_value),
            "surprise": w(2 * self.d_value, 1),
            "surprise_bias": nn.Parameter(torch.zeros(1)),
            "decay": nn.Parameter(torch.full((1,), 3.0)),
            "output": w(self.d_value, self.d_model),
        })

    def core(self, params, M, x_t):
        k = F.normalize(x_t @ params["key"], dim=-1)
        q = F.normalize(x_t @ params["query"], dim=-1)
        v = x_t @ params["value"]
        v_bar = torch.einsum("nvk,nk->nv", M, k)
        features = torch.cat([v - v_bar, (v - v_bar).abs()], dim=-1)
        s = torch.sigmoid(features @ params["surprise"] + params["surprise_bias"])
        M = torch.sigmoid(params["decay"]) * M + torch.einsum("nv,nk->nvk", s * v, k)
        return M, torch.einsum("nvk,nk->nv", M, q)

    def apply(self, params, x):
        M = x.new_zeros(x.shape[0], self.d_value, self.d_key)
        ys = []
        for t in range(x.shape[1]):
            M, y = self.core(params, M, x[:, t])
            ys.append(y)
        return torch.stack(ys, dim=1) @ params["output"]


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory_fn = NeuralMemory(d_model)
        self.memory_params = self.memory_fn.init()
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln_2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln_1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory_fn.apply(self.memory_params, h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], dim=-1)))
        x = x + g * attn + (1 - g) * mem
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.w_token = nn.Embedding(vocab_size, d_model)
        self.w_position = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.w_token(tokens) + self.w_position.weight[:T]
        for block in self.blocks:
            x = block(x, mask)
        return self.unembed(self.ln_f(x))
