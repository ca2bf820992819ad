import torch
import torch.nn as nn
import torch.nn.functional as F
from dataclasses import dataclass, field, replace


@dataclass
class MemoryConfig:
    key_dim: int = 32
    value_dim: int = 32
    gate_hidden: int = 32
    retention_init: float = 0.95
    learn_initial_state: bool = True


@dataclass
class ModelConfig:
    vocab_size: int = 256
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 2
    max_len: int = 512
    memory: MemoryConfig = field(default_factory=MemoryConfig)


class MemoryCell(nn.Module):
    """A single moment: recall, compare, forget, write."""

    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        p = torch.tensor(cfg.retention_init)
        self.retention_logit = nn.Parameter(torch.log(p / (1 - p)))
        self.compare = nn.Sequential(
            nn.Linear(2 * cfg.value_dim, cfg.gate_hidden), nn.Tanh(), nn.Linear(cfg.gate_hidden, 1), nn.Sigmoid()
        )

    @staticmethod
    def recall(state, cue):
        return torch.einsum("b v k, b k -> b v", state, cue)

    def forward(self, state, key, value):
        expected = self.recall(state, key)
        surprise = self.compare(torch.cat([value, expected], dim=-1))
        # overwrite rather than pile up: only the part that was not predicted is stored
        delta = surprise * (value - expected)
        return self.retention_logit.sigmoid() * state + delta.unsqueeze(2) @ key.unsqueeze(1)


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, cfg: MemoryConfig = MemoryConfig()):
        super().__init__()
        self.cfg = cfg
        self.proj_q = nn.Linear(d_model, cfg.key_dim)
        self.proj_k = nn.Linear(d_model, cfg.key_dim)
        self.proj_v = nn.Linear(d_model, cfg.value_dim)
        self.proj_o = nn.Linear(cfg.value_dim, d_model)
        self.cell = MemoryCell(cfg)
        init = 0.02 * torch.randn(cfg.value_dim, cfg.key_dim)
        if cfg.learn_initial_state:
            self.initial_state = nn.Parameter(init)
        else:
            self.register_buffer("initial_state", torch.zeros_like(init))

    def forward(self, x):
        q = F.normalize(self.proj_q(x), dim=-1)
        k = F.normalize(self.proj_k(x), dim=-1)
        v = self.proj_v(x)
        state = self.initial_state.expand(x.size(0), -1, -1)
        reads = []
        for i in range(x.size(1)):
            state = self.cell(state, k[:, i], v[:, i])
            reads.append(self.cell.recall(state, q[:, i]))
        return self.proj_o(torch.stack(reads, 1))


class SelfAttention(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.h = cfg.n_heads
        self.in_proj = nn.Linear(cfg.d_model, 3 * cfg.d_model)
        self.out_proj = nn.Linear(cfg.d_model, cfg.d_model)
        self.register_buffer("mask", torch.tril(torch.ones(cfg.max_len, cfg.max_len, dtype=torch.bool)), persistent=False)

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = [t.reshape(B, T, self.h, C // self.h).transpose(1, 2) for t in self.in_proj(x).split(C, dim=2)]
        scores = q @ k.transpose(-2, -1) / (C // self.h) ** 0.5
        scores = scores.masked_fill(~self.mask[:T, :T], float("-inf"))
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(cfg.d_model), nn.LayerNorm(cfg.d_model)
        self.attention = SelfAttention(cfg)
        self.memory = NeuralMemory(cfg.d_model, cfg.memory)
        self.router = nn.Linear(cfg.d_model, 2)
        self.mlp = nn.Sequential(
            nn.Linear(cfg.d_model, 4 * cfg.d_model), nn.GELU(), nn.Linear(4 * cfg.d_model, cfg.d_model)
        )

    def forward(self, x):
        h = self.norm1(x)
        paths = torch.stack([self.attention(h), self.memory(h)], dim=-1)   # (B, T, C, 2)
        weights = self.router(h).softmax(dim=-1).unsqueeze(2)              # sums to one over the two paths
        x = x + (paths * weights).sum(-1)
        return x + self.mlp(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, config: ModelConfig = None):
        super().__init__()
        cfg = replace(config or ModelConfig(), vocab_size=vocab_size, d_model=d_model, n_heads=n_heads,
                      n_layers=n_layers, max_len=max_len)
        self.cfg = cfg
        self.wte = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.wpe = nn.Embedding(cfg.max_len, cfg.d_model)
        self.h = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layers)])
        self.ln_f = nn.LayerNorm(cfg.d_model)
        self.lm_head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))
