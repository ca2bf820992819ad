# coding=utf-8
"""PyTorch MemoryTransformer model, laid out like a `modeling_*.py` file."""
from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import nn

ACT2FN = {"gelu": nn.GELU(), "silu": nn.SiLU(), "relu": nn.ReLU()}


@dataclass
class MemoryTransformerConfig:
    vocab_size: int = 256
    hidden_size: int = 64
    num_attention_heads: int = 4
    num_hidden_layers: int = 2
    intermediate_size: int = 256
    max_position_embeddings: int = 512
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    surprise_hidden: int = 32


@dataclass
class MemoryCache:
    """Associative state of every layer. A new one is made for every forward pass."""

    states: dict = field(default_factory=dict)

    def get(self, layer_idx: int, like: torch.Tensor) -> torch.Tensor:
        if layer_idx not in self.states:
            b, d = like.shape
            self.states[layer_idx] = like.new_zeros(b, d, d)
        return self.states[layer_idx]

    def update(self, layer_idx: int, state: torch.Tensor) -> torch.Tensor:
        self.states[layer_idx] = state
        return state


class NeuralMemory(nn.Module):
    def __init__(self, config: MemoryTransformerConfig, layer_idx: int = 0):
        super().__init__()
        self.layer_idx = layer_idx
        d = config.hidden_size
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.surprise_dense = nn.Linear(2 * d, config.surprise_hidden)
        self.surprise_act = nn.Tanh()
        self.surprise_out = nn.Linear(config.surprise_hidden, 1)
        self.retention = nn.Parameter(torch.tensor(2.5))
        self.LayerNorm = nn.LayerNorm(d, eps=config.layer_norm_eps)

    def surprise(self, value: torch.Tensor, recalled: torch.Tensor) -> torch.Tensor:
        hidden = self.surprise_dense(torch.cat([value, value - recalled], dim=-1))
        return torch.sigmoid(self.surprise_out(self.surprise_act(hidden)))

    def forward(self, hidden_states: torch.Tensor, cache: Optional[MemoryCache] = None) -> torch.Tensor:
        cache = cache if cache is not None else MemoryCache()
        queries, keys, values = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        keys = nn.functional.normalize(keys, dim=-1)
        outputs = ()
        for position in range(hidden_states.shape[1]):
            key, value = keys[:, position], values[:, position]
            state = cache.get(self.layer_idx, like=value)
            recalled = torch.bmm(state, key.unsqueeze(2)).squeeze(2)
            strength = self.surprise(value, recalled)
            association = torch.bmm((strength * value).unsqueeze(2), key.unsqueeze(1))
            state = cache.update(self.layer_idx, torch.sigmoid(self.retention) * state + association)
            outputs += (torch.bmm(state, queries[:, position].unsqueeze(2)).squeeze(2),)
        return self.LayerNorm(torch.stack(outputs, dim=1))


class MemoryTransformerLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.attention = nn.MultiheadAttention(config.hidden_size, config.num_attention_heads, batch_first=True)
        self.memory = NeuralMemory(config, layer_idx)
        self.fusion_gate = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states, attention_mask, cache):
        normed = self.attention_norm(hidden_states)
        attention_output, _ = self.attention(normed, normed, normed, attn_mask=attention_mask, need_weights=False)
        memory_output = self.memory(normed, cache)
        gate = torch.sigmoid(self.fusion_gate(torch.cat([attention_output, memory_output], dim=-1)))
        hidden_states = hidden_states + (gate * memory_output + (1 - gate) * attention_output)
        return hidden_states + self.output(self.act(self.intermediate(self.output_norm(hidden_states))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, **kwargs):
        super().__init__()
        self.config = config = MemoryTransformerConfig(vocab_size, d_model, n_heads, n_layers, 4 * d_model, **kwargs)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.h = nn.ModuleList([MemoryTransformerLayer(config, i) for i in range(config.num_hidden_layers)])
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.zero_()

    def forward(self, tokens: torch.LongTensor) -> torch.FloatTensor:
        seq_len = tokens.shape[1]
        mask = torch.full((seq_len, seq_len), float("-inf"), device=tokens.device).triu(1)
        hidden_states = self.wte(tokens) + self.wpe(torch.arange(seq_len, device=tokens.device))
        cache = MemoryCache()
        for layer in self.h:
            hidden_states = layer(hidden_states, mask, cache)
        return self.lm_head(self.ln_f(hidden_states))
