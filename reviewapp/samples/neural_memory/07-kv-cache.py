"""Transformer with a long-term memory modelled on the hippocampus.

Hippocampal memories are episodes: a cue (key) and what happened (value). New episodes are stored as they arrive, more
salient ones are recalled more easily, and when the store is full the oldest episode is overwritten.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, capacity=64):
        super().__init__()
        self.capacity = capacity
        self.key_proj = nn.Linear(d_model, d_model)
        self.value_proj = nn.Linear(d_model, d_model)
        self.query_proj = nn.Linear(d_model, d_model)
        self.salience = nn.Linear(d_model, 1)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        mem_keys, mem_values = [], []
        outputs = []
        for t in range(T):
            x_t = x[:, t]

            # salient (novel) episodes are stored with a larger value
            salience = torch.sigmoid(self.salience(x_t))
            mem_keys.append(self.key_proj(x_t))
            mem_values.append(salience * self.value_proj(x_t))

            # forget the oldest episodes
            mem_keys = mem_keys[-self.capacity:]
            mem_values = mem_values[-self.capacity:]

            # recall by similarity
            K = torch.stack(mem_keys, dim=1)
            V = torch.stack(mem_values, dim=1)
            q = self.query_proj(x_t).unsqueeze(1)
            scores = torch.bmm(q, K.transpose(1, 2)) / D ** 0.5
            recalled = torch.bmm(scores.softmax(dim=-1), V).squeeze(1)
            outputs.append(recalled)

        return self.out_proj(torch.stack(outputs, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln_m = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a
        x = x + self.memory(self.ln_m(x))
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
