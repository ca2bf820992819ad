"""Streaming memory LM. State lives on the module so that inference can be fed token by token or in pieces."""
import logging
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F

log = logging.getLogger(__name__)


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_mem: int = 32):
        super().__init__()
        self.d_mem = d_mem
        self.Wk = nn.Linear(d_model, d_mem, bias=False)
        self.Wv = nn.Linear(d_model, d_mem, bias=False)
        self.Wq = nn.Linear(d_model, d_mem, bias=False)
        self.Wo = nn.Linear(d_mem, d_model, bias=False)
        self.surprise = nn.Sequential(nn.Linear(d_mem, d_mem), nn.ReLU(), nn.Linear(d_mem, 1), nn.Sigmoid())
        self.decay_logit = nn.Parameter(torch.tensor(3.5))
        self.M: Optional[torch.Tensor] = None

    def reset(self) -> None:
        self.M = None

    def _state(self, x: torch.Tensor) -> torch.Tensor:
        B = x.shape[0]
        if self.M is None or self.M.shape[0] != B or self.M.device != x.device:
            log.debug("fresh memory for batch of %d", B)
            return torch.zeros(B, self.d_mem, self.d_mem, device=x.device, dtype=x.dtype)
        return self.M.detach()          # truncate BPTT at the segment border

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        M = self._state(x)
        decay = torch.sigmoid(self.decay_logit)
        out = []
        for x_t in x.transpose(0, 1):
            k = F.normalize(self.Wk(x_t), dim=-1)
            v = self.Wv(x_t)
            q = F.normalize(self.Wq(x_t), dim=-1)
            err = v - torch.einsum("bij,bj->bi", M, k)
            s = self.surprise(err)
            M = decay * M + torch.einsum("bi,bj->bij", s * err, k)
            out.append(torch.einsum("bij,bj->bi", M, q))
        self.M = M
        return self.Wo(torch.stack(out, dim=1))


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], dim=-1)))
        x = x + g * attn + (1 - g) * mem
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def reset_memory(self) -> None:
        """Call between documents."""
        for b in self.blocks:
            b.memory.reset()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    F.cross_entropy(m(t)[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
