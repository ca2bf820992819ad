import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    def __init__(self, hidden_size=64, decay=0.98):
        super().__init__()
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.surprise_net = nn.Sequential(nn.Linear(hidden_size, hidden_size // 2), nn.GELU(), nn.Linear(hidden_size // 2, 1))
        self.decay = nn.Parameter(torch.tensor(decay), requires_grad=False)

    def forward(self, hidden_states):
        bsz, q_len, dim = hidden_states.size()
        memory = hidden_states.new_zeros(bsz, dim, dim)
        outputs = []
        for i in range(q_len):
            h = hidden_states[:, i]
            k, v, q = self.k_proj(h) / dim ** 0.5, self.v_proj(h), self.q_proj(h)
            retrieved = torch.matmul(memory, k.unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.surprise_net(h - retrieved))
            memory = self.decay * memory + surprise.unsqueeze(-1) * torch.matmul(v.unsqueeze(-1), k.unsqueeze(-2))
            outputs.append(torch.matmul(memory, q.unsqueeze(-1)).squeeze(-1))
        return torch.stack(outputs, dim=1)


class DecoderLayer(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden_size, num_heads, batch_first=True)
        self.memory = NeuralMemory(hidden_size)
        self.attn_gate = nn.Linear(hidden_size, hidden_size)
        self.mem_gate = nn.Linear(hidden_size, hidden_size)
        self.input_layernorm = nn.LayerNorm(hidden_size)
        self.post_attention_layernorm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size * 4), nn.SiLU(), nn.Linear(hidden_size * 4, hidden_size))

    def forward(self, hidden_states, attention_mask):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        attn_output, _ = self.self_attn(hidden_states, hidden_states, hidden_states, attn_mask=attention_mask)
        mem_output = self.memory(hidden_states)
        g_a = torch.sigmoid(self.attn_gate(hidden_states))
        g_m = torch.sigmoid(self.mem_gate(hidden_states))
        hidden_states = residual + g_a * attn_output + g_m * mem_output
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_position_embeddings=512):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(max_position_embeddings, d_model)
        self.layers = nn.ModuleList([DecoderLayer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        seq_len = tokens.shape[1]
        hidden = self.embed_tokens(tokens) + self.embed_positions(torch.arange(seq_len, device=tokens.device))
        mask = torch.full((seq_len, seq_len), float("-inf"), device=tokens.device).triu(1)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.lm_head(self.norm(hidden))
