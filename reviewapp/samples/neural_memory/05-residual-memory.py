import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    Long-term memory inspired by synaptic plasticity.

    - surprising or novel information is written more strongly (write gate)
    - memories fade over time (decay)
    - co-occurring key and value are bound together (Hebbian outer product)
    """

    def __init__(self, d_model: int = 64, d_mem: int = 48):
        super().__init__()
        self.d_mem = d_mem
        self.key = nn.Linear(d_model, d_mem)
        self.value = nn.Linear(d_model, d_mem)
        self.query = nn.Linear(d_model, d_mem)
        self.novelty = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.ReLU(), nn.Linear(d_model // 2, 1))
        self.log_decay = nn.Parameter(torch.tensor(math.log(0.95)))
        self.readout = nn.Linear(d_mem, d_model)
        self.register_buffer("scale", torch.tensor(1.0 / math.sqrt(d_mem)))

    def init_memory(self, batch_size, device):
        return torch.zeros(batch_size, self.d_mem, self.d_mem, device=device)

    def write(self, memory, x_t):
        k = torch.tanh(self.key(x_t))
        v = self.value(x_t)
        importance = torch.sigmoid(self.novelty(x_t))            # (B, 1)
        outer = v.unsqueeze(2) @ k.unsqueeze(1)                   # (B, d_mem, d_mem)
        decay = torch.exp(-torch.abs(self.log_decay))
        return decay * memory + importance.unsqueeze(-1) * outer * self.scale

    def read(self, memory, x_t):
        q = torch.tanh(self.query(x_t))
        return self.readout((memory @ q.unsqueeze(-1)).squeeze(-1))

    def forward(self, x):
        memory = self.init_memory(x.size(0), x.device)
        outputs = []
        for t in range(x.size(1)):
            x_t = x[:, t]
            outputs.append(self.read(memory, x_t))
            memory = self.write(memory, x_t)
        return torch.stack(outputs, dim=1)


class MemoryBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln_mem = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.memory_gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + attn_out

        mem_out = self.memory(self.ln_mem(x))
        gate = torch.sigmoid(self.memory_gate(x))
        x = x + gate * mem_out

        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(MemoryBlock(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    out = model(tokens)
    loss = F.cross_entropy(out[:, :-1].reshape(-1, 256), tokens[:, 1:].reshape(-1))
    loss.backward()
    print("loss", loss.item())
