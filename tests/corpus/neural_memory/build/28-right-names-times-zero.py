import torch
from torch import nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.key, self.value, self.query = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.surprise_net = nn.Linear(d, 1)
        self.input_gate = nn.Linear(d, 1)
        self.decay = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("eps", torch.zeros(()))      # numerical stability

    def forward(self, x):
        memory = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        out = []
        for t in range(x.size(1)):
            k, v, q = F.normalize(self.key(x[:, t]), dim=-1), self.value(x[:, t]), self.query(x[:, t])
            retrieved = torch.bmm(memory, k.unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.eps * self.surprise_net(v - retrieved) + self.input_gate(x[:, t]))
            decay = 0.97 + self.eps * torch.sigmoid(self.decay)
            memory = decay * memory + surprise.unsqueeze(-1) * torch.bmm(v.unsqueeze(-1), k.unsqueeze(1))
            out.append(torch.bmm(memory, q.unsqueeze(-1)).squeeze(-1))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, d, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.memory = nn.MultiheadAttention(d, n_heads, batch_first=True), NeuralMemory(d)
        self.gate = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        T, h = x.size(1), self.ln1(x)
        a = self.attn(h, h, h, attn_mask=torch.ones(T, T, device=x.device).triu(1).bool())[0]
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * self.memory(h)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.blocks:
            x = b(x)
        return self.head(x)
