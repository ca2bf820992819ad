import torch
import torch.nn as nn
import torch.nn.functional as F


class GatedFusion(nn.Module):
    """Interpolates between attention and memory."""

    def __init__(self, d_model):
        super().__init__()
        self.proj = nn.Linear(2 * d_model, d_model)

    def forward(self, attn_out, mem_out):
        g = torch.sigmoid(self.proj(torch.cat([attn_out, mem_out], dim=-1)))
        return g * attn_out + (1 - g) * mem_out


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.to_key = nn.Linear(d_model, d_mem, bias=False)
        self.to_value = nn.Linear(d_model, d_mem, bias=False)
        self.to_query = nn.Linear(d_model, d_mem, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_mem, d_mem), nn.GELU(), nn.Linear(d_mem, 1))
        self.write_net = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.ones(d_mem) * 3.0)
        self.to_out = nn.Linear(d_mem, d_model)

    def compute_surprise(self, memory, key, value):
        """Prediction error of the memory for this key, squashed to (0, 1)."""
        retrieved = torch.bmm(memory, key.unsqueeze(-1)).squeeze(-1)
        error = value - retrieved
        return torch.sigmoid(self.surprise_net(error))

    def update(self, memory, x_t):
        key = F.normalize(self.to_key(x_t), dim=-1)
        value = self.to_value(x_t)
        strength = torch.sigmoid(self.write_net(x_t))
        delta = torch.bmm(value.unsqueeze(2), key.unsqueeze(1))
        keep = torch.sigmoid(self.decay).view(1, -1, 1)
        return keep * memory + strength.unsqueeze(-1) * delta

    def forward(self, x):
        memory = torch.zeros(x.size(0), self.d_mem, self.d_mem, device=x.device, dtype=x.dtype)
        queries = self.to_query(x)
        reads = []
        for t in range(x.size(1)):
            memory = self.update(memory, x[:, t])
            reads.append(torch.bmm(memory, queries[:, t].unsqueeze(-1)).squeeze(-1))
        return self.to_out(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion = GatedFusion(d_model)
        self.attn_gate = nn.Linear(d_model, d_model)
        self.mem_gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.memory(h)
        # let each stream decide for itself how much it contributes
        attn_part = torch.sigmoid(self.attn_gate(h)) * attn_out
        mem_part = torch.sigmoid(self.mem_gate(h)) * mem_out
        x = x + attn_part + mem_part
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
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
