import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    Biologically inspired long-term memory.

    - Synaptic matrix M (fast weights), one per sequence
    - Hebbian outer-product writes
    - Surprise-gated plasticity
    - Exponential forgetting with a learnable rate
    """

    def __init__(self, d_model: int = 64, d_mem: int = 64):
        super().__init__()
        self.d_mem = d_mem
        self.key_proj = nn.Linear(d_model, d_mem)
        self.value_proj = nn.Linear(d_model, d_mem)
        self.query_proj = nn.Linear(d_model, d_mem)
        self.out_proj = nn.Linear(d_mem, d_model)
        # Surprise detector
        self.surprise_gate = nn.Sequential(
            nn.Linear(d_model, d_model // 2),
            nn.ReLU(),
            nn.Linear(d_model // 2, 1),
            nn.Sigmoid(),
        )
        self.decay = nn.Parameter(torch.tensor(2.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq_len, _ = x.shape
        memory = torch.zeros(batch, self.d_mem, self.d_mem, device=x.device)
        outputs = []
        for t in range(seq_len):
            x_t = x[:, t]
            k = F.normalize(self.key_proj(x_t), dim=-1)
            v = self.value_proj(x_t)
            q = F.normalize(self.query_proj(x_t), dim=-1)

            # Recall
            recalled = torch.bmm(memory, q.unsqueeze(-1)).squeeze(-1)
            outputs.append(recalled)

            # Surprise decides how strongly the moment is stored
            surprise = self.surprise_gate(x_t)

            # Forget, then associate
            memory = torch.sigmoid(self.decay) * memory
            memory = memory + surprise.unsqueeze(-1) * torch.bmm(v.unsqueeze(-1), k.unsqueeze(1))
        return self.out_proj(torch.stack(outputs, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln_mem = nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model, d_model)
        self.mem_gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a
        mem_out = self.memory(self.ln_mem(x))
        # How much each counts differs from moment to moment
        gate = torch.sigmoid(self.mem_gate(torch.cat([x, mem_out], dim=-1)))
        x = x + gate * mem_out
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    logits = model(tokens)
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 256), tokens[:, 1:].reshape(-1))
    loss.backward()
    print("logits", tuple(logits.shape), "loss", loss.item())
