from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from typing import Generator

# Design note
# -----------
# * The store is an actor: a coroutine that owns the matrix. You send it one token's (address, content) and it answers
#   with what it knows *before* learning from that token. Nobody else can touch the matrix.
# * NTM style erase + add: the old content at the address is taken away and the new one put there, both in proportion to
#   how wrong the store was. Since both share the address it is one rank-1 write.
# * Heads of the store are independent (d_model / n_stores each).

Exchange = Generator[torch.Tensor, tuple[torch.Tensor, torch.Tensor], None]


class SurpriseUnit(nn.Module):
    """How wrong was the store, in (0, 1)?"""

    def __init__(self, width: int):
        super().__init__()
        self.pick = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.tensor(-0.5))
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, actual, expected):
        gap = self.pick(actual) - self.pick(expected)
        level = gap.abs().mean(dim=-1, keepdim=True)
        return torch.special.expit(self.gain * level + self.bias)


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, n_stores: int = 4):
        super().__init__()
        assert d_model % n_stores == 0
        self.n, self.w = n_stores, d_model // n_stores
        self.address = nn.Linear(d_model, d_model, bias=False)
        self.content = nn.Linear(d_model, d_model, bias=False)
        self.surprise = SurpriseUnit(self.w)
        self.leak = nn.Parameter(torch.full((n_stores, 1, 1), -3.0))  # sigmoid(-3) ~ 5 % lost a step
        self.say = nn.Linear(d_model, d_model, bias=False)

    def store(self, batch: int, like: torch.Tensor) -> Exchange:
        M = like.new_zeros(batch, self.n, self.w, self.w)
        answer = like.new_zeros(batch, self.n, self.w)
        leak = self.leak.sigmoid()
        while True:
            k, v = yield answer
            known = (M * k.unsqueeze(-2)).sum(-1)
            s = self.surprise(v, known)
            erase = s * known
            add = s * v
            M = M - leak * M
            M = M + (add - erase).unsqueeze(-1) * k.unsqueeze(-2)
            answer = (M * k.unsqueeze(-2)).sum(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        split = (B, T, self.n, self.w)
        k = F.normalize(F.silu(self.address(x)).view(split), dim=-1)
        v = self.content(x).view(split)
        actor = self.store(B, x)
        next(actor)
        said = [actor.send((k[:, t], v[:, t])) for t in range(T)]
        actor.close()
        return self.say(torch.stack(said, 1).flatten(2))


class GroupedAttention(nn.Module):
    def __init__(self, d_model, n_heads, n_kv):
        super().__init__()
        self.h, self.kv, self.dh = n_heads, n_kv, d_model // n_heads
        self.wq = nn.Linear(d_model, self.h * self.dh, bias=False)
        self.wkv = nn.Linear(d_model, 2 * self.kv * self.dh, bias=False)
        self.wo = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        q = self.wq(x).unflatten(-1, (self.h, self.dh)).transpose(1, 2)
        k, v = self.wkv(x).unflatten(-1, (2, self.kv, self.dh)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.wo(y.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.w12, self.w3 = nn.Linear(d, 2 * hidden, bias=False), nn.Linear(hidden, d, bias=False)

    def forward(self, x):
        a, b = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(a) * b)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(d_model), nn.RMSNorm(d_model)
        self.attn = GroupedAttention(d_model, n_heads, max(1, n_heads // 2))
        self.memory = NeuralMemory(d_model)
        self.trust = nn.Linear(d_model, n_heads)  # how much of each head-sized slice comes from the store
        self.ff = SwiGLU(d_model, 3 * d_model)

    def forward(self, x):
        h = self.n1(x)
        now, past = self.attn(h), self.memory(h)
        trust = self.trust(h).sigmoid().repeat_interleave(x.size(-1) // self.trust.out_features, dim=-1)
        x = x + past.mul(trust).add(now.mul(1 - trust))
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.body = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)))
        self.out = nn.Sequential(nn.RMSNorm(d_model), nn.Linear(d_model, vocab_size, bias=False))

    def forward(self, tokens):
        T = tokens.size(-1)
        return self.out(self.body(self.tok(tokens) + self.pos.weight[:T]))


if __name__ == "__main__":
    net = MemoryTransformer()
    ids = torch.randint(256, (2, 16))
    F.cross_entropy(net(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    print(sum(p.numel() for p in net.parameters()))
