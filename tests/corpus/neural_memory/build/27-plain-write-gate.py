import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Matrix memory with a learned write gate and learned forgetting."""

    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.query = nn.Linear(d_model, d_mem)
        self.key = nn.Linear(d_model, d_mem)
        self.value = nn.Linear(d_model, d_mem)
        self.write_gate = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))
        self.output = nn.Linear(d_mem, d_model)

    def forward(self, x):
        batch_size, seq_len, _ = x.shape
        M = torch.zeros(batch_size, self.d_mem, self.d_mem, device=x.device)
        decay = torch.sigmoid(self.decay)
        outputs = []
        for t in range(seq_len):
            x_t = x[:, t, :]
            q = self.query(x_t)
            k = F.normalize(self.key(x_t), dim=-1)
            v = self.value(x_t)
            # surprising tokens open the gate
            surprise = torch.sigmoid(self.write_gate(x_t))
            M = decay * M + surprise.unsqueeze(-1) * torch.bmm(v.unsqueeze(2), k.unsqueeze(1))
            outputs.append(self.output(torch.bmm(M, q.unsqueeze(2)).squeeze(2)))
        return torch.stack(outputs, dim=1)


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.gate = nn.Linear(d_model * 2, d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, d_model * 4), nn.GELU(), nn.Linear(d_model * 4, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, device=x.device), diagonal=1).bool()
        normed = self.norm1(x)
        attn_out, _ = self.attn(normed, normed, normed, attn_mask=mask)
        mem_out = self.memory(normed)
        g = torch.sigmoid(self.gate(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + g * attn_out + (1 - g) * mem_out
        return x + self.ffn(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.pos_embedding = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([TransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        positions = torch.arange(tokens.size(1), device=tokens.device).unsqueeze(0)
        x = self.embedding(tokens) + self.pos_embedding(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
