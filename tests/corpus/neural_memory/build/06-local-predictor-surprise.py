"""
Neural long-term memory with predictive-coding surprise.

The cortex constantly predicts what comes next; only what it failed to predict is worth remembering. We therefore keep a
small forward model that predicts the next token's representation, and its prediction error opens the write gate of an
associative matrix memory.
"""
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F


class ForwardModel(nn.Module):
    """Predicts x_t from x_{t-1}."""

    def __init__(self, d_model: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model))
        self.first = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        guess = self.net(x[:, :-1])
        first = self.first.expand(x.size(0), 1, -1)
        return torch.cat([first, guess], dim=1)


class NeuralMemory(nn.Module):
    """
    Args:
        d_model: width of the token representations
        init_decay: initial retention of the memory matrix per step
    """

    def __init__(self, d_model: int = 64, init_decay: float = 0.95):
        super().__init__()
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.forward_model = ForwardModel(d_model)
        self.surprise_net = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.ReLU(), nn.Linear(d_model // 2, 1))
        self.decay = nn.Parameter(torch.logit(torch.tensor(init_decay)))

    def forward(self, x: torch.Tensor, M: Optional[torch.Tensor] = None) -> Tuple[torch.Tensor, torch.Tensor]:
        B, T, D = x.shape
        if M is None:
            M = torch.zeros(B, D, D, device=x.device, dtype=x.dtype)

        prediction = self.forward_model(x)
        retain = torch.sigmoid(self.decay)
        outputs = []
        for t in range(T):
            q = self.query(x[:, t])
            k = F.normalize(self.key(x[:, t]), dim=-1)
            v = self.value(x[:, t])

            # prediction error -> surprise in (0, 1)
            error = x[:, t] - prediction[:, t]
            surprise = torch.sigmoid(self.surprise_net(error))

            # V (x) K^T
            M = retain * M + surprise.unsqueeze(-1) * torch.bmm(v.unsqueeze(2), k.unsqueeze(1))

            outputs.append(torch.bmm(M, q.unsqueeze(2)).squeeze(2))
        return torch.stack(outputs, dim=1), M


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.mem_norm = nn.LayerNorm(d_model)
        self.fusion_gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m, _ = self.memory(h)
        m = self.mem_norm(m)
        g = torch.sigmoid(self.fusion_gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
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
