"""Memory is attached to an ordinary transformer from outside: a forward hook on each attention blends in what is recalled."""
import functools

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.key = nn.Linear(width, width // 2)
        self.value = nn.Linear(width, width)
        self.actual = nn.Linear(width, 1)
        self.expected = nn.Linear(width, 1, bias=False)
        self.decay = nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        keys = F.normalize(F.relu(self.key(x)) + 1e-4, dim=-1)
        values = self.value(x)
        memory = None
        recalls = []
        for k, v in zip(keys.unbind(1), values.unbind(1)):
            if memory is None:
                memory = torch.zeros(*v.shape, k.shape[-1], dtype=x.dtype, device=x.device)
            before = torch.einsum("bvk,bk->bv", memory, k)
            recalls.append(before)                                     # read, then write
            s = torch.sigmoid(self.actual(v) + self.expected(before))
            write = torch.einsum("bv,bk->bvk", s * v, k)
            memory = self.decay.clamp(0.05, 0.999) * memory + write
        return torch.stack(recalls, dim=1)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm_attn, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x, mask):
        h = self.norm_attn(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm_mlp(x))


def blend_with_memory(memory, gate, module, args, output):
    attended, weights = output
    recalled = memory(args[0])
    g = torch.sigmoid(gate(torch.cat([attended, recalled], dim=-1)))
    return g * attended + (1 - g) * recalled, weights


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.memories = nn.ModuleList(NeuralMemory(d_model) for _ in range(n_layers))
        self.gates = nn.ModuleList(nn.Linear(2 * d_model, d_model) for _ in range(n_layers))
        for block, memory, gate in zip(self.blocks, self.memories, self.gates):
            block.attn.register_forward_hook(functools.partial(blend_with_memory, memory, gate))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        n = tokens.size(1)
        mask = torch.triu(torch.ones(n, n, dtype=torch.bool, device=tokens.device), diagonal=1)
        x = self.tok(tokens) + self.pos(torch.arange(n, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)
