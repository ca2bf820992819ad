"""neural_memory - an RNNCell-like associative memory and a small language model that uses it."""
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NeuralMemoryCell", "NeuralMemory", "MemoryTransformer", "NeuralMemoryState"]


class NeuralMemoryState(NamedTuple):
    """State of one memory. ``weight`` has shape ``(batch, value_size, key_size)``."""

    weight: Tensor
    steps: int = 0

    @classmethod
    def empty(cls, batch: int, value_size: int, key_size: int, ref: Tensor) -> "NeuralMemoryState":
        return cls(torch.zeros(batch, value_size, key_size, device=ref.device, dtype=ref.dtype))


class SurpriseGate(nn.Module):
    r"""``sigmoid(w_1 |v - r|^2 / d + w_2 cos(v, r) + b)`` with learned ``w_1, w_2, b``."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(2, 1)
        with torch.no_grad():
            self.readout.weight.copy_(torch.tensor([[1.0, -1.0]]))
            self.readout.bias.zero_()

    def forward(self, actual: Tensor, recalled: Tensor) -> Tensor:
        mse = (actual - recalled).pow(2).mean(-1)
        cos = F.cosine_similarity(actual, recalled, dim=-1, eps=1e-4)
        return torch.sigmoid(self.readout(torch.stack((mse, cos), dim=-1)))


class NeuralMemoryCell(nn.Module):
    """One step: recall, compare, fade, write, read."""

    def __init__(self, input_size: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.key_size, self.value_size = key_size, value_size
        self.key = nn.Linear(input_size, key_size, bias=False)
        self.query = nn.Linear(input_size, key_size, bias=False)
        self.value = nn.Linear(input_size, value_size, bias=False)
        self.gate = SurpriseGate()
        self.forget = nn.Linear(input_size, 1)
        nn.init.constant_(self.forget.bias, 3.0)

    def forward(self, x: Tensor, state: NeuralMemoryState) -> Tuple[Tensor, NeuralMemoryState]:
        key = F.normalize(self.key(x), dim=-1)
        query = F.normalize(self.query(x), dim=-1)
        value = self.value(x)
        recalled = torch.einsum("nvk,nk->nv", state.weight, key)
        surprise = self.gate(value, recalled)
        retain = torch.sigmoid(self.forget(x))
        weight = retain[..., None] * state.weight + surprise[..., None] * value[:, :, None] * key[:, None, :]
        return torch.einsum("nvk,nk->nv", weight, query), NeuralMemoryState(weight, state.steps + 1)


class NeuralMemory(nn.Module):
    """Unrolls :class:`NeuralMemoryCell` over a batch-first sequence.

    Args:
        state: pass the state of the previous segment to continue it; ``None`` starts empty.
    """

    def __init__(self, d_model: int = 64, key_size: int = 24, value_size: int = 48) -> None:
        super().__init__()
        self.cell = NeuralMemoryCell(d_model, key_size, value_size)
        self.norm = nn.LayerNorm(value_size)
        self.out_proj = nn.Linear(value_size, d_model)

    def forward(self, x: Tensor, state: Optional[NeuralMemoryState] = None) -> Tuple[Tensor, NeuralMemoryState]:
        if state is None:
            state = NeuralMemoryState.empty(x.size(0), self.cell.value_size, self.cell.key_size, x)
        reads: List[Tensor] = []
        for x_t in x.unbind(dim=1):
            read, state = self.cell(x_t, state)
            reads.append(read)
        return self.out_proj(self.norm(torch.stack(reads, dim=1))), state


class _Layer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, with_memory: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model) if with_memory else None
        self.blend = nn.Sequential(nn.Linear(2 * d_model, 1), nn.Sigmoid()) if with_memory else None
        self.norm2 = nn.LayerNorm(d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor, state: Optional[NeuralMemoryState]) -> Tuple[Tensor, Optional[NeuralMemoryState]]:
        h = self.norm1(x)
        causal = nn.Transformer.generate_square_subsequent_mask(x.size(1), device=x.device, dtype=x.dtype)
        y, _ = self.self_attn(h, h, h, attn_mask=causal, is_causal=True, need_weights=False)
        if self.memory is not None:
            m, state = self.memory(h, state)
            g = self.blend(torch.cat((y, m), dim=-1))
            y = g * y + (1 - g) * m
        x = x + y
        return x + self.ff(self.norm2(x)), state


class MemoryTransformer(nn.Module):
    """Decoder-only LM; the layers in ``memory_layers`` own a memory (default: every layer but the first)."""

    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 3,
                 max_len: int = 512, memory_layers: Optional[Sequence[int]] = None) -> None:
        super().__init__()
        chosen = set(range(1, n_layers)) or {0} if memory_layers is None else set(memory_layers)
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(_Layer(d_model, n_heads, i in chosen) for i in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor, states: Optional[List[Optional[NeuralMemoryState]]] = None,
                return_states: bool = False):
        states = states or [None] * len(self.layers)
        x = self.token(tokens) + self.position(torch.arange(tokens.size(1), device=tokens.device))
        new_states: List[Optional[NeuralMemoryState]] = []
        for layer, state in zip(self.layers, states):
            x, state = layer(x, state)
            new_states.append(state)
        logits = self.lm_head(self.norm(x))
        return (logits, new_states) if return_states else logits
