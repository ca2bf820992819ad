"""Memory-augmented causal LM."""
import torch
from torch import nn
import torch.nn.functional as F


class SurpriseGate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, actual, predicted):
        return torch.sigmoid(self.fc2(torch.relu(self.fc1((actual - predicted).abs()))))


class NeuralLongTermMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.key, self.value, self.query = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.surprise = SurpriseGate(dim)
        self._decay = nn.Parameter(torch.tensor(0.0))

    @property
    def decay(self):
        return 0.8 + 0.2 * torch.sigmoid(self._decay)

    def forward(self, inputs):
        batch, steps, dim = inputs.shape
        M = inputs.new_zeros((batch, dim, dim))
        result = []
        step = 0
        while step < steps:
            token = inputs[:, step]
            k = F.normalize(self.key(token), dim=1)
            v = self.value(token)
            recalled = torch.matmul(M, k.unsqueeze(2)).squeeze(2)
            M = self.decay * M + self.surprise(v, recalled).unsqueeze(2) * torch.matmul(v.unsqueeze(2), k.unsqueeze(1))
            result.append(torch.matmul(M, self.query(token).unsqueeze(2)).squeeze(2))
            step += 1
        return torch.stack(result, dim=1)


class MemoryAttentionGate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim * 2, dim)

    def forward(self, attn, mem):
        g = torch.sigmoid(self.linear(torch.cat([attn, mem], dim=-1)))
        return g * attn + (1 - g) * mem


class TransformerBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ltm = NeuralLongTermMemory(dim)
        self.fusion = MemoryAttentionGate(dim)
        self.ff = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x, causal_mask):
        normed = self.norm1(x)
        attn, _ = self.attn(normed, normed, normed, attn_mask=causal_mask)
        x = x + self.fusion(attn, self.ltm(normed))
        return x + self.ff(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([TransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        length = tokens.size(1)
        mask = torch.triu(torch.ones(length, length, device=tokens.device), diagonal=1).bool()
        x = self.tok(tokens) + self.pos(torch.arange(length, device=tokens.device)).unsqueeze(0)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    out = model(torch.randint(0, 256, (2, 16)))
    out.mean().backward()
    print("ok", tuple(out.shape), f"{sum(p.numel() for p in model.parameters()):,} parameters")
