"""
Neural Long-Term Memory Transformer
===================================

Biological principle          ->  Implementation
--------------------------------------------------------------
Synaptic storage              ->  matrix M per sequence
Stream of experience          ->  token-by-token loop
Association                   ->  M += V (x) K^T
Surprise / novelty            ->  learned sigmoid write gate
Forgetting                    ->  learned sigmoid decay
Recall + attention            ->  learned sigmoid read gate
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Long-term memory stored in connection strengths."""

    def __init__(self, d_model=64, memory_dim=64):
        super().__init__()
        self.memory_dim = memory_dim

        # Projections
        self.key_proj = nn.Linear(d_model, memory_dim)
        self.value_proj = nn.Linear(d_model, memory_dim)
        self.query_proj = nn.Linear(d_model, memory_dim)
        self.out_proj = nn.Linear(memory_dim, d_model)

        # Surprise gate: decides how strongly the current token is written
        self.surprise_gate = nn.Sequential(
            nn.Linear(d_model, d_model // 2),
            nn.ReLU(),
            nn.Linear(d_model // 2, 1),
        )

        # Learnable decay (forgetting)
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        batch_size, seq_len, _ = x.shape

        # Initialize memory
        M = torch.zeros(batch_size, self.memory_dim, self.memory_dim, device=x.device, dtype=x.dtype)
        decay = torch.sigmoid(self.decay)

        outputs = []
        for t in range(seq_len):
            x_t = x[:, t, :]

            k_t = F.normalize(self.key_proj(x_t), dim=-1)
            v_t = self.value_proj(x_t)
            q_t = F.normalize(self.query_proj(x_t), dim=-1)

            # Recall from memory before it is changed
            recalled = torch.bmm(M, q_t.unsqueeze(-1)).squeeze(-1)

            # Surprise: how novel is this token?
            surprise = torch.sigmoid(self.surprise_gate(x_t))  # (B, 1)

            # Hebbian write: M = decay * M + surprise * V (x) K^T
            M = decay * M + surprise.unsqueeze(-1) * torch.bmm(v_t.unsqueeze(-1), k_t.unsqueeze(1))

            outputs.append(recalled)

        return self.out_proj(torch.stack(outputs, dim=1))


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.ln_mem = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.memory_gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Linear(4 * d_model, d_model),
            nn.Dropout(dropout),
        )

    def forward(self, x, mask):
        # 1. Short-term: attention
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + attn_out

        # 2. Long-term: memory
        mem_out = self.memory(self.ln_mem(x))

        # 3. Bring the two together, gated moment by moment
        gate = torch.sigmoid(self.memory_gate(torch.cat([x, mem_out], dim=-1)))
        x = x + gate * mem_out

        # 4. Feed-forward
        return x + self.ffn(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=1000, d_model=64, n_heads=4, n_layers=2, max_seq_len=512):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_seq_len, d_model)
        self.blocks = nn.ModuleList([TransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        B, T = tokens.shape
        positions = torch.arange(T, device=tokens.device).unsqueeze(0)
        x = self.token_emb(tokens) + self.pos_emb(positions)
        mask = torch.triu(torch.ones(T, T, device=tokens.device), diagonal=1).bool()
        for block in self.blocks:
            x = block(x, mask)
        return self.lm_head(self.ln_f(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    tokens = torch.randint(0, 1000, (2, 16))
    logits = model(tokens)
    assert logits.shape == (2, 16, 1000)
    loss = F.cross_entropy(logits.view(-1, 1000), tokens.view(-1))
    loss.backward()
    print("OK", loss.item())
