from __future__ import annotations

import dataclasses

import torch
import torch.nn as nn


@dataclasses.dataclass(frozen=True)
class Engram:
    """What the memory holds at one moment. Never edited, only replaced."""

    trace: torch.Tensor

    @classmethod
    def empty(cls, batch: int, rows: int, cols: int, like: torch.Tensor) -> Engram:
        return cls(like.new_zeros((batch, rows, cols)))

    def recall(self, cue: torch.Tensor) -> torch.Tensor:
        return (self.trace @ cue[..., None])[..., 0]

    def faded(self, keep: torch.Tensor) -> Engram:
        return dataclasses.replace(self, trace=self.trace * keep)

    def bound(self, content: torch.Tensor, cue: torch.Tensor) -> Engram:
        return dataclasses.replace(self, trace=self.trace + content[..., None] * cue[..., None, :])


class SurpriseGate(nn.Module):
    """How much of this moment should be kept, given what was expected."""

    def __init__(self, dim: int):
        super().__init__()
        self.saw = nn.Linear(dim, dim)
        self.expected = nn.Linear(dim, dim)
        self.judge = nn.Linear(dim, 1)

    def forward(self, observed: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.judge(torch.tanh(self.saw(observed) + self.expected(expected))))


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, d_mem: int = 32):
        super().__init__()
        self.d_mem = d_mem
        self.cue = nn.Sequential(nn.Linear(d_model, d_mem), nn.LayerNorm(d_mem, elementwise_affine=False))
        self.content = nn.Linear(d_model, d_mem)
        self.question = nn.Linear(d_model, d_mem)
        self.surprise = SurpriseGate(d_mem)
        self.persistence = nn.Parameter(torch.full((1, d_mem, 1), 2.0))
        self.answer = nn.Linear(d_mem, d_model)

    def experience(self, engram: Engram, moment: torch.Tensor) -> tuple[Engram, torch.Tensor]:
        cue, content = self.cue(moment) / self.d_mem ** 0.5, self.content(moment)
        strength = self.surprise(content, engram.recall(cue))
        engram = engram.faded(torch.sigmoid(self.persistence)).bound(strength * content, cue)
        return engram, engram.recall(self.question(moment))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        engram = Engram.empty(x.size(0), self.d_mem, self.d_mem, x)
        answers = []
        for moment in x.unbind(dim=1):
            engram, answer = self.experience(engram, moment)
            answers.append(answer)
        return self.answer(torch.stack(answers, dim=1))


class Fusion(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.preference = nn.Linear(2 * d_model, d_model)

    def forward(self, attended: torch.Tensor, remembered: torch.Tensor) -> torch.Tensor:
        g = self.preference(torch.cat((attended, remembered), -1)).sigmoid()
        return remembered + g * (attended - remembered)


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion = Fusion(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, n = self.ln1(x), x.size(1)
        future = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        attended = self.attn(h, h, h, attn_mask=future, need_weights=False)[0]
        x = x + self.fusion(attended, self.memory(h))
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.body = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)), nn.LayerNorm(d_model))
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.tok(tokens) + self.pos.weight[: tokens.size(1)]))
