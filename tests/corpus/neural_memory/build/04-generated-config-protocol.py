"""Memory-augmented transformer.

Layout: configs (frozen dataclasses) -> state container -> policies (small strategy modules) -> memory -> model.
"""
from __future__ import annotations

import dataclasses
import enum
from typing import Protocol, Self

import torch
from torch import Tensor, nn


class FusionGranularity(enum.Enum):
    SCALAR = "scalar"
    CHANNEL = "channel"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    width: int
    slots: int = 48
    gate_hidden: int = 24
    initial_retention: float = 0.97


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    vocab_size: int = 256
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 2
    max_len: int = 512
    fusion: FusionGranularity = FusionGranularity.CHANNEL

    @property
    def memory(self) -> MemoryConfig:
        return MemoryConfig(width=self.d_model)


@dataclasses.dataclass(slots=True)
class MemoryState:
    table: Tensor  # [batch, slots, width]; row space = keys, column space = values

    @classmethod
    def empty(cls, batch: int, cfg: MemoryConfig, like: Tensor) -> Self:
        return cls(like.new_zeros((batch, cfg.slots, cfg.width)))

    def lookup(self, address: Tensor) -> Tensor:
        return torch.linalg.vecdot(self.table.mT, address.unsqueeze(-2))

    def evolved(self, retention: Tensor, address: Tensor, content: Tensor) -> Self:
        return dataclasses.replace(self, table=retention * self.table + address.unsqueeze(2) @ content.unsqueeze(1))


class WritePolicy(Protocol):
    def __call__(self, content: Tensor, predicted: Tensor) -> Tensor: ...


class SurpriseWritePolicy(nn.Module):
    """Channel-wise write strength out of the normalised prediction error and its magnitude."""

    def __init__(self, cfg: MemoryConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(cfg.width)
        self.hidden = nn.Linear(cfg.width + 1, cfg.gate_hidden)
        self.strength = nn.Linear(cfg.gate_hidden, cfg.width)

    def forward(self, content: Tensor, predicted: Tensor) -> Tensor:
        error = content - predicted
        magnitude = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
        features = torch.cat((self.norm(error), magnitude.log1p()), dim=-1)
        return torch.sigmoid(self.strength(torch.nn.functional.mish(self.hidden(features))))


class Retention(nn.Module):
    def __init__(self, cfg: MemoryConfig) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.logit(torch.full((cfg.slots, 1), cfg.initial_retention)))

    def forward(self) -> Tensor:
        return self.logit.sigmoid()


class NeuralMemory(nn.Module):
    def __init__(self, cfg: MemoryConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.address = nn.Linear(cfg.width, cfg.slots)
        self.probe = nn.Linear(cfg.width, cfg.slots)
        self.content = nn.Linear(cfg.width, cfg.width)
        self.policy: WritePolicy = SurpriseWritePolicy(cfg)
        self.retention = Retention(cfg)
        self.readout = nn.Linear(cfg.width, cfg.width)

    @staticmethod
    def _unit(z: Tensor) -> Tensor:
        return nn.functional.normalize(z, dim=-1)

    def step(self, state: MemoryState, retention: Tensor, token: Tensor) -> tuple[MemoryState, Tensor]:
        address, content = self._unit(self.address(token)), self.content(token)
        strength = self.policy(content, state.lookup(address))
        state = state.evolved(retention, address, strength * content)
        return state, self.readout(state.lookup(self._unit(self.probe(token))))

    def forward(self, x: Tensor) -> Tensor:
        state, retention = MemoryState.empty(x.size(0), self.cfg, x), self.retention()
        outputs: list[Tensor] = []
        for token in x.unbind(1):
            state, y = self.step(state, retention, token)
            outputs.append(y)
        return torch.stack(outputs, dim=1)


class Fusion(nn.Module):
    def __init__(self, width: int, granularity: FusionGranularity) -> None:
        super().__init__()
        match granularity:
            case FusionGranularity.SCALAR:
                n = 1
            case FusionGranularity.CHANNEL:
                n = width
        self.from_attention, self.from_memory = nn.Linear(width, n), nn.Linear(width, n, bias=False)

    def forward(self, attention: Tensor, memory: Tensor) -> Tensor:
        z = self.from_attention(attention) + self.from_memory(memory)
        return z.sigmoid() * attention + (-z).sigmoid() * memory  # sigmoid(-z) == 1 - sigmoid(z)


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        d = cfg.d_model
        self.pre, self.post = nn.RMSNorm(d), nn.RMSNorm(d)
        self.attention = nn.MultiheadAttention(d, cfg.n_heads, batch_first=True, bias=False)
        self.memory = NeuralMemory(cfg.memory)
        self.fusion = Fusion(d, cfg.fusion)
        self.up, self.down = nn.Linear(d, 8 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.pre(x)
        attended, _ = self.attention(h, h, h, attn_mask=mask, need_weights=False)
        x = x + self.fusion(attended, self.memory(h))
        gate, value = self.up(self.post(x)).chunk(2, dim=-1)
        return x + self.down(nn.functional.silu(gate) * value)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2,
                 max_len: int = 512) -> None:
        super().__init__()
        self.cfg = cfg = ModelConfig(vocab_size=vocab_size, d_model=d_model, n_heads=n_heads, n_layers=n_layers,
                                     max_len=max_len)
        self.tok, self.pos = nn.Embedding(cfg.vocab_size, cfg.d_model), nn.Embedding(cfg.max_len, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.final = nn.RMSNorm(cfg.d_model)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        self.register_buffer("mask", torch.ones(max_len, max_len, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.size(1)
        x = self.tok(tokens) + self.pos.weight[:length]
        for block in self.blocks:
            x = block(x, self.mask[:length, :length])
        return self.head(self.final(x))


if __name__ == "__main__":
    torch.manual_seed(0)
    model = MemoryTransformer()
    out = model(torch.randint(0, 256, (2, 16)))
    out.logsumexp(-1).mean().backward()
    print({n: p.grad.norm().item() for n, p in model.named_parameters() if "logit" in n})
