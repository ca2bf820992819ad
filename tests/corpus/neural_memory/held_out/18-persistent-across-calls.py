"""Continual-learning transformer: the memory of a stream goes on living between calls.

Long documents are fed in segments; whatever was associated in segment n must be there in segment n + 1, so the module
keeps the last state and picks it up again. `reset_memory()` starts a new document.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_state=48):
        super().__init__()
        self.d_state = d_state
        self.W_k = nn.Linear(d_model, d_state, bias=False)
        self.W_v = nn.Linear(d_model, d_state, bias=False)
        self.W_q = nn.Linear(d_model, d_state, bias=False)
        self.W_o = nn.Linear(d_state, d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_state, d_state), nn.GELU(), nn.Linear(d_state, 1))
        self.decay_raw = nn.Parameter(torch.ones(d_state) * 3.0)
        self.state = None

    def reset(self):
        self.state = None

    def _initial(self, x):
        if self.state is not None and self.state.shape[0] == x.shape[0]:
            return self.state.to(x)
        return torch.zeros(x.shape[0], self.d_state, self.d_state, device=x.device, dtype=x.dtype)

    def forward(self, x):
        M = self._initial(x)
        decay = torch.sigmoid(self.decay_raw)
        reads = []
        for t in range(x.shape[1]):
            xt = x[:, t]
            k = F.normalize(self.W_k(xt), dim=-1)
            q = F.normalize(self.W_q(xt), dim=-1)
            v = self.W_v(xt)
            retrieved = torch.einsum("bij,bj->bi", M, k)
            surprise = torch.sigmoid(self.surprise_net(v - retrieved))
            M = M * decay + torch.einsum("bi,bj->bij", surprise * v, k)
            reads.append(torch.einsum("bij,bj->bi", M, q))
        self.state = M.detach()          # truncated backprop between segments
        return self.W_o(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm_a = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.Sigmoid())
        self.norm_b = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.shape[1]
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), diagonal=1)
        h = self.norm_a(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = self.gate(torch.cat([attn, mem], dim=-1))
        x = x + (g * attn + (1 - g) * mem)
        return x + self.mlp(self.norm_b(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def reset_memory(self):
        for block in self.blocks:
            block.memory.reset()

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    doc = torch.randint(0, 256, (2, 32))
    for segment in doc.split(16, dim=1):
        print(model(segment).shape)
    model.reset_memory()
