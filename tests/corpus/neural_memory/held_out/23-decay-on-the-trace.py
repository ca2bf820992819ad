import torch
import torch.nn as nn
import torch.nn.functional as F


class SurpriseGate(nn.Module):
    """Compare the value that arrived with the one the memory predicted."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def forward(self, actual, predicted):
        return torch.sigmoid(self.net(torch.cat([predicted, actual - predicted], dim=-1)))


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_mem: int = 32):
        super().__init__()
        self.d_mem = d_mem
        self.to_key = nn.Linear(d_model, d_mem, bias=False)
        self.to_value = nn.Linear(d_model, d_mem, bias=False)
        self.to_query = nn.Linear(d_model, d_mem, bias=False)
        self.surprise = SurpriseGate(d_mem)
        self.decay = nn.Parameter(torch.zeros(d_mem))
        self.norm = nn.LayerNorm(d_mem)
        self.to_out = nn.Linear(d_mem, d_model)

    @property
    def fade(self):
        return torch.sigmoid(self.decay)

    def read(self, memory, cue):
        return torch.einsum("bvk,bk->bv", memory, cue)

    def write(self, memory, key, value):
        surprise = self.surprise(value, self.read(memory, key))
        trace = torch.einsum("bv,bk->bvk", value, key)
        # faded trace, stronger when the moment was surprising
        return memory + self.fade[:, None] * surprise[..., None] * trace

    def forward(self, x):
        memory = torch.zeros(x.size(0), self.d_mem, self.d_mem, dtype=x.dtype, device=x.device)
        keys = F.normalize(self.to_key(x), dim=-1)
        queries = F.normalize(self.to_query(x), dim=-1)
        values = self.to_value(x)
        recalled = []
        for key, value, query in zip(keys.unbind(1), values.unbind(1), queries.unbind(1)):
            memory = self.write(memory, key, value)
            recalled.append(self.read(memory, query))
        return self.to_out(self.norm(torch.stack(recalled, dim=1)))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
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
    print(logits.shape, m.blocks[0].memory.decay.grad.norm())
