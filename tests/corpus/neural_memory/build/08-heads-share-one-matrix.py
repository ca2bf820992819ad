"""Multi-head neural memory. Like multi-query attention the heads share the store: every head writes its own key-value
pair into ONE matrix of shape [d_head, d_head], so the memory costs H^2 times less than a full one."""
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class MemoryConfig:
    vocab_size: int = 256
    hidden_size: int = 64
    num_heads: int = 4
    num_layers: int = 2
    max_position: int = 512

    @property
    def head_dim(self):
        return self.hidden_size // self.num_heads


class NeuralMemory(nn.Module):
    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        self.cfg = cfg
        self.k_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)
        self.v_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)
        self.q_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)
        self.o_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)
        self.surprise = nn.Linear(cfg.head_dim, 1)
        self.retention_logit = nn.Parameter(torch.tensor(3.0))

    def _heads(self, t):
        return t.view(*t.shape[:-1], self.cfg.num_heads, self.cfg.head_dim)

    def forward(self, hidden_states):
        bsz, seq_len, _ = hidden_states.shape
        keys = F.normalize(self._heads(self.k_proj(hidden_states)), dim=-1)
        values = self._heads(self.v_proj(hidden_states))
        queries = F.normalize(self._heads(self.q_proj(hidden_states)), dim=-1)

        memory = hidden_states.new_zeros(bsz, self.cfg.head_dim, self.cfg.head_dim)
        retention = torch.sigmoid(self.retention_logit)
        outputs = []
        for t in range(seq_len):
            k, v, q = keys[:, t], values[:, t], queries[:, t]                      # [B, H, Dh]
            retrieved = torch.einsum("bij,bhj->bhi", memory, k)
            surprise = torch.sigmoid(self.surprise((v - retrieved).square()))      # [B, H, 1]
            memory = retention * memory + torch.einsum("bhi,bhj->bij", surprise * v, k)
            outputs.append(torch.einsum("bij,bhj->bhi", memory, q).reshape(bsz, -1))
        return self.o_proj(torch.stack(outputs, dim=1))


class MemoryGate(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.dense = nn.Linear(cfg.hidden_size * 2, cfg.hidden_size)

    def forward(self, attn_out, mem_out):
        gate = self.dense(torch.cat([attn_out, mem_out], dim=-1)).sigmoid()
        return torch.lerp(mem_out, attn_out, gate)


class MemoryDecoderLayer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(cfg.hidden_size)
        self.self_attn = nn.MultiheadAttention(cfg.hidden_size, cfg.num_heads, batch_first=True, bias=False)
        self.memory = NeuralMemory(cfg)
        self.gate = MemoryGate(cfg)
        self.post_attention_layernorm = nn.RMSNorm(cfg.hidden_size)
        self.mlp = nn.Sequential(nn.Linear(cfg.hidden_size, 4 * cfg.hidden_size), nn.SiLU(),
                                 nn.Linear(4 * cfg.hidden_size, cfg.hidden_size))

    def forward(self, hidden_states, attention_mask):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        attn_out = self.self_attn(hidden_states, hidden_states, hidden_states, attn_mask=attention_mask,
                                  need_weights=False)[0]
        hidden_states = residual + self.gate(attn_out, self.memory(hidden_states))
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class MemoryTransformer(nn.Module):
    def __init__(self, cfg: MemoryConfig | None = None, **overrides):
        super().__init__()
        self.cfg = cfg = cfg or MemoryConfig(**overrides)
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.embed_positions = nn.Embedding(cfg.max_position, cfg.hidden_size)
        self.layers = nn.ModuleList([MemoryDecoderLayer(cfg) for _ in range(cfg.num_layers)])
        self.norm = nn.RMSNorm(cfg.hidden_size)
        self.lm_head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)

    def forward(self, tokens):
        n = tokens.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).triu_(1)
        h = self.embed_tokens(tokens) + self.embed_positions(torch.arange(n, device=tokens.device))
        for layer in self.layers:
            h = layer(h, mask)
        return self.lm_head(self.norm(h))


if __name__ == "__main__":
    model = MemoryTransformer()
    batch = torch.randint(0, 256, (2, 16))
    out = model(batch)
    F.cross_entropy(out[:, :-1].reshape(-1, 256), batch[:, 1:].reshape(-1)).backward()
    print(out.shape, model.layers[0].memory.retention_logit.grad)
