import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """A single synaptic matrix W, fresh for every forward pass, plastic while the tokens come in."""

    def __init__(self, hidden_size: int = 64, memory_size: int = 32):
        super().__init__()
        self.memory_size = memory_size
        self.key = nn.Linear(hidden_size, memory_size)
        self.value = nn.Linear(hidden_size, memory_size)
        self.query = nn.Linear(hidden_size, memory_size)
        self.surprise_gate = nn.Linear(memory_size, memory_size)
        self.decay = nn.Parameter(torch.tensor(2.2))
        self.dense = nn.Linear(memory_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        bsz, seq_len, _ = hidden_states.shape
        W = torch.zeros(self.memory_size, self.memory_size, device=hidden_states.device)
        outputs = []
        for t in range(seq_len):
            h = hidden_states[:, t]
            k, v, q = F.normalize(self.key(h), dim=-1), self.value(h), self.query(h)
            predicted = k @ W.t()
            surprise = torch.sigmoid(self.surprise_gate(v - predicted))
            hebbian = (surprise * v).t() @ k / bsz
            W = torch.sigmoid(self.decay) * W + hebbian
            outputs.append(q @ W.t())
        return self.dense(torch.stack(outputs, dim=1))


class MemoryBlock(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = nn.MultiheadAttention(hidden_size, num_heads, batch_first=True)
        self.memory = NeuralMemory(hidden_size)
        self.memory_gate = nn.Linear(hidden_size * 2, 1)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size * 4), nn.GELU(), nn.Linear(hidden_size * 4, hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        seq_len = hidden_states.size(1)
        mask = torch.triu(torch.ones(seq_len, seq_len, dtype=torch.bool, device=hidden_states.device), diagonal=1)
        residual = hidden_states
        hidden_states = self.attention_norm(hidden_states)
        attn_output, _ = self.attention(hidden_states, hidden_states, hidden_states, attn_mask=mask, need_weights=False)
        mem_output = self.memory(hidden_states)
        gate = torch.sigmoid(self.memory_gate(torch.cat([attn_output, mem_output], dim=-1)))
        hidden_states = residual + gate * attn_output + (1 - gate) * mem_output
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_position_embeddings=512):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, d_model)
        self.position_embeddings = nn.Embedding(max_position_embeddings, d_model)
        self.layer = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        position_ids = torch.arange(tokens.size(1), device=tokens.device)
        hidden_states = self.word_embeddings(tokens) + self.position_embeddings(position_ids)
        for layer_module in self.layer:
            hidden_states = layer_module(hidden_states)
        return self.lm_head(self.ln_f(hidden_states))
