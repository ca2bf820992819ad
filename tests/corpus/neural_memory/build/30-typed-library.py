"""neural_memory.py -- a recurrent Hebbian memory with an explicit, serialisable state.

The module is written so that it can be used token by token at inference time::

    state = memory.init_state(batch)
    for x_t in stream:
        y_t, state = memory.step(x_t, state)

``forward`` is the same loop over a whole sequence, starting from an empty state unless one is given.
"""
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["MemoryState", "NeuralMemory", "MemoryTransformer"]


class MemoryState(NamedTuple):
    synapses: torch.Tensor  # (B, H, Dv, Dk)

    def detach(self) -> "MemoryState":
        return MemoryState(self.synapses.detach())


class SurpriseGate(nn.Module):
    """sigmoid(w2 . relu(W1 (actual - expected))) per head."""

    def __init__(self, dim: int, hidden: int = 16):
        super().__init__()
        self.inp = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.out(F.relu(self.inp(actual - expected))))


class NeuralMemory(nn.Module):
    """Hebbian matrix memory.

    Args:
        d_model: width of the input and of the output.
        n_heads: independent memories per sequence.
        init_half_life: tokens after which an unrefreshed trace has lost half its strength (per head: x1, x2, x4...).
    """

    def __init__(self, d_model: int = 64, n_heads: int = 4, init_half_life: float = 8.0):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.merge = nn.Linear(d_model, d_model, bias=False)
        self.gate = SurpriseGate(self.d_head)
        half_lives = init_half_life * 2.0 ** torch.arange(n_heads)
        # decay = exp(-softplus(rate)), always in (0, 1); softplus^-1 of ln2/half_life
        self.rate = nn.Parameter(torch.log(torch.expm1(0.6931 / half_lives)))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, n_heads={self.n_heads}"

    def init_state(self, batch: int, like: Optional[torch.Tensor] = None) -> MemoryState:
        ref = self.rate if like is None else like
        return MemoryState(ref.new_zeros(batch, self.n_heads, self.d_head, self.d_head))

    def _split(self, z: torch.Tensor) -> torch.Tensor:
        return z.unflatten(-1, (self.n_heads, self.d_head))

    def step(self, x: torch.Tensor, state: MemoryState) -> Tuple[torch.Tensor, MemoryState]:
        """x: (B, d_model) -> (B, d_model) and the new state."""
        q = self._split(self.query(x))
        k = F.normalize(self._split(self.key(x)), dim=-1)
        v = self._split(self.value(x))
        syn = state.synapses

        expected = torch.matmul(syn, k.unsqueeze(-1)).squeeze(-1)
        surprise = self.gate(v, expected)                                   # (B, H, 1)
        trace = surprise.unsqueeze(-1) * torch.matmul(v.unsqueeze(-1), k.unsqueeze(-2))
        decay = torch.exp(-F.softplus(self.rate)).view(1, -1, 1, 1)
        syn = decay * syn + trace

        recalled = torch.matmul(syn, q.unsqueeze(-1)).squeeze(-1)
        return self.merge(recalled.flatten(-2)), MemoryState(syn)

    def forward(self, x: torch.Tensor, state: Optional[MemoryState] = None) -> Tuple[torch.Tensor, MemoryState]:
        if state is None:
            state = self.init_state(x.size(0), like=x)
        outputs: List[torch.Tensor] = []
        for x_t in x.unbind(dim=1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, dim=1), state


class GatedFusion(nn.Module):
    """One gate, two complementary weights."""

    def __init__(self, d_model: int):
        super().__init__()
        self.proj = nn.Linear(3 * d_model, d_model)

    def forward(self, x: torch.Tensor, attended: torch.Tensor, recalled: torch.Tensor) -> torch.Tensor:
        g = torch.sigmoid(self.proj(torch.cat([x, attended, recalled], dim=-1)))
        return recalled + g * (attended - recalled)


class MemoryBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int, dropout: float = 0.0):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.memory = NeuralMemory(d_model, n_heads)
        self.fusion = GatedFusion(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(x.size(1), device=x.device)
        h = self.ln1(x)
        attended, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        recalled, _ = self.memory(h)
        x = x + self.fusion(h, attended, recalled)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 1024):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tok.weight
        self.apply(self._init)

    @staticmethod
    def _init(m: nn.Module) -> None:
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.05)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens) + self.pos.weight[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))
