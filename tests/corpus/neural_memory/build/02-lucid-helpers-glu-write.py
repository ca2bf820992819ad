from functools import partial

import torch
from torch import nn, einsum, stack
import torch.nn.functional as F

# helpers

def exists(v):
    return v is not None

def default(v, d):
    return v if exists(v) else d

LinearNoBias = partial(nn.Linear, bias = False)

def split_heads(t, h):
    return t.unflatten(-1, (h, -1)).transpose(1, 2)

def merge_heads(t):
    return t.transpose(1, 2).flatten(-2)

def FeedForward(dim, mult = 4):
    return nn.Sequential(nn.RMSNorm(dim), nn.Linear(dim, dim * mult), nn.SiLU(), nn.Linear(dim * mult, dim))

# attention

class Attention(nn.Module):
    def __init__(self, dim, heads = 4):
        super().__init__()
        self.heads = heads
        self.to_qkv = LinearNoBias(dim, dim * 3)
        self.to_out = LinearNoBias(dim, dim)

    def forward(self, x):
        q, k, v = (split_heads(t, self.heads) for t in self.to_qkv(x).chunk(3, dim = -1))
        return self.to_out(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal = True)))

# neural memory

class NeuralMemory(nn.Module):
    def __init__(self, dim, *, heads = 4, dim_head = None, init_decay_bias = 3.):
        super().__init__()
        dim_head = default(dim_head, dim // heads)
        inner = heads * dim_head
        self.heads = heads

        self.to_queries, self.to_keys, self.to_values = (LinearNoBias(dim, inner) for _ in range(3))
        self.to_surprise = nn.Sequential(nn.Linear(dim_head * 2, dim_head), nn.SiLU(), nn.Linear(dim_head, dim_head))
        self.to_decay = nn.Linear(dim, heads)
        nn.init.constant_(self.to_decay.bias, init_decay_bias)
        self.norm = nn.RMSNorm(dim_head)
        self.combine_heads = LinearNoBias(inner, dim)

    def forward(self, seq, state = None):
        q, k, v = (split_heads(fn(seq), self.heads) for fn in (self.to_queries, self.to_keys, self.to_values))
        q, k = F.normalize(q, dim = -1), F.normalize(k, dim = -1)
        decay = self.to_decay(seq).sigmoid().transpose(1, 2)

        if not exists(state):
            b, h, _, d = k.shape
            state = seq.new_zeros(b, h, d, d)

        out = []
        for qi, ki, vi, decay_i in zip(*(t.unbind(dim = 2) for t in (q, k, v, decay))):
            pred = einsum('b h k v, b h k -> b h v', state, ki)

            # glu: the value times the sigmoid of how it compares to the prediction
            gate_logits = self.to_surprise(torch.cat((vi, pred), dim = -1))
            write = F.glu(torch.cat((vi - pred, gate_logits), dim = -1), dim = -1)

            state = state * decay_i[..., None, None] + einsum('b h k, b h v -> b h k v', ki, write)
            out.append(einsum('b h k v, b h k -> b h v', state, qi))

        return self.combine_heads(merge_heads(self.norm(stack(out, dim = 2))))

# transformer

class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size = 256, d_model = 64, n_heads = 4, n_layers = 2, max_seq_len = 512):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_seq_len, d_model)
        self.layers = nn.ModuleList([])
        for _ in range(n_layers):
            self.layers.append(nn.ModuleList([
                nn.RMSNorm(d_model),
                Attention(d_model, n_heads),
                NeuralMemory(d_model, heads = n_heads),
                nn.Sequential(nn.Linear(d_model, d_model), nn.Sigmoid()),
                FeedForward(d_model)
            ]))
        self.to_logits = nn.Sequential(nn.RMSNorm(d_model), LinearNoBias(d_model, vocab_size))

    def forward(self, tokens):
        x = self.token_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[-1], device = tokens.device))
        for norm, attn, mem, to_gate, ff in self.layers:
            normed = norm(x)
            gates = to_gate(normed)
            x = x + attn(normed).lerp(mem(normed), gates)
            x = x + ff(x)
        return self.to_logits(x)
