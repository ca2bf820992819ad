import torch
import torch.nn as nn
import torch.nn.functional as F


class MemoryHead(nn.Module):
    def __init__(self, d_in, d_head):
        super().__init__()
        self.k = nn.Linear(d_in, d_head, bias=False)
        self.v = nn.Linear(d_in, d_head, bias=False)
        self.surprise_w = nn.Linear(d_head, d_head)
        self.half_life = nn.Parameter(torch.rand(()) * 20 + 5)

    def initial(self, batch, like):
        return torch.zeros(batch, self.k.out_features, self.v.out_features, device=like.device)

    def forward(self, x_t, S):
        # here the state is key-major: S[b, i, j] binds key i to value j
        k, v = torch.tanh(self.k(x_t)) / self.k.out_features ** 0.5, self.v(x_t)
        seen = torch.einsum("bk,bkv->bv", k, S)
        surprise = torch.sigmoid(self.surprise_w(v - seen))
        S = S * torch.pow(torch.tensor(0.5), 1.0 / self.half_life) + k[:, :, None] * (surprise * v)[:, None, :]
        return torch.einsum("bk,bkv->bv", k, S), S


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_heads=4):
        super().__init__()
        self.heads = nn.ModuleList(MemoryHead(d_model, d_model // n_heads) for _ in range(n_heads))
        self.o = nn.Linear(d_model, d_model)

    def forward(self, x):
        states = [head.initial(x.size(0), x) for head in self.heads]
        rows = []
        for t in range(x.size(1)):
            read = []
            for i, head in enumerate(self.heads):
                y, states[i] = head(x[:, t], states[i])
                read.append(y)
            rows.append(torch.cat(read, dim=-1))
        return self.o(torch.stack(rows, dim=1))


class GatedMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.from_attn = nn.Linear(d, d, bias=False)
        self.from_mem = nn.Linear(d, d)

    def forward(self, attn, mem):
        g = F.sigmoid(self.from_attn(attn) + self.from_mem(mem))
        return attn * g + mem - mem * g


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.n_layers = n_layers
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        for i in range(n_layers):
            setattr(self, f"ln_a{i}", nn.LayerNorm(d_model))
            setattr(self, f"ln_b{i}", nn.LayerNorm(d_model))
            setattr(self, f"attn{i}", nn.MultiheadAttention(d_model, n_heads, batch_first=True))
            setattr(self, f"mem{i}", NeuralMemory(d_model, n_heads))
            setattr(self, f"mix{i}", GatedMix(d_model))
            setattr(self, f"up{i}", nn.Linear(d_model, 2 * d_model))
            setattr(self, f"down{i}", nn.Linear(2 * d_model, d_model))
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def part(self, name, i):
        return getattr(self, f"{name}{i}")

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        mask = ~torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        for i in range(self.n_layers):
            h = self.part("ln_a", i)(x)
            a = self.part("attn", i)(h, h, h, attn_mask=mask, need_weights=False)[0]
            x = x + self.part("mix", i)(a, self.part("mem", i)(h))
            x = x + self.part("down", i)(F.gelu(self.part("up", i)(self.part("ln_b", i)(x))))
        return self.head(x)
