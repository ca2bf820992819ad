import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim: int = 64):
        super().__init__()
        self.dim = dim
        self.key_net = nn.Linear(dim, dim)
        self.val_net = nn.Linear(dim, dim)
        self.qry_net = nn.Linear(dim, dim)
        self.surprise_net = nn.Linear(dim, dim)
        self.decay = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        M = torch.zeros(B, D, D, device=x.device)
        outputs = []
        for t in range(T):
            xt = x[:, t]
            key = F.normalize(self.key_net(xt), dim=-1)
            val = self.val_net(xt)
            pred = torch.einsum("bij,bj->bi", M, key)
            surprise = torch.sigmoid(self.surprise_net(val - pred))
            # per-dimension surprise, broadcast over the matrix
            M = torch.sigmoid(self.decay) * M + surprise * torch.einsum("bi,bj->bij", val, key)
            outputs.append(torch.einsum("bij,bj->bi", M, self.qry_net(xt)))
        return torch.stack(outputs, dim=1)


class MemoryBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn_norm = nn.LayerNorm(dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.gate = nn.Linear(dim * 2, 1)
        self.ffn = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x):
        mask = torch.triu(torch.ones(x.size(1), x.size(1), device=x.device), 1).bool()
        h = self.attn_norm(x)
        attn, _ = self.attention(h, h, h, attn_mask=mask)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], -1)))
        x = x + g * attn + (1 - g) * mem
        return x + self.ffn(self.ffn_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.to_logits = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.to_logits(x)
