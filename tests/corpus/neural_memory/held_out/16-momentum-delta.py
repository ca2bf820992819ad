import torch
import torch.nn as nn
import torch.nn.functional as F

# Memory after the "test-time memorisation" idea: the write direction is the gradient of
# 0.5 * ||M k - v||^2 with respect to M, i.e. -(v - M k) k^T, smoothed with momentum.
# How big the step is, is decided by a learned sigmoid of that same error.


class NeuralMemory(nn.Module):
    def __init__(self, dim: int = 64, mem_dim: int = 32):
        super().__init__()
        self.mem_dim = mem_dim
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, mem_dim, bias=False)
        self.to_k = nn.Linear(dim, mem_dim, bias=False)
        self.to_v = nn.Linear(dim, mem_dim, bias=False)
        self.to_out = nn.Linear(mem_dim, dim, bias=False)

        # surprise = sigmoid(gain * (|error| - threshold)), both learned
        self.surprise_gain = nn.Parameter(torch.tensor(2.0))
        self.surprise_threshold = nn.Parameter(torch.tensor(0.5))

        self.retention = nn.Parameter(torch.full((mem_dim,), 3.0))  # one rate a row of M
        self.momentum = nn.Parameter(torch.tensor(-1.0))

    def surprise(self, error):
        magnitude = (error.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        return torch.sigmoid(self.surprise_gain * (magnitude - self.surprise_threshold))

    def forward(self, x):
        b, n, _ = x.shape
        x = self.norm(x)
        q = F.normalize(self.to_q(x), dim=-1)
        k = F.normalize(self.to_k(x), dim=-1)
        v = self.to_v(x)

        keep = torch.sigmoid(self.retention)[None, :, None]
        eta = torch.sigmoid(self.momentum)

        memory = x.new_zeros(b, self.mem_dim, self.mem_dim)
        velocity = torch.zeros_like(memory)
        recalled = []
        for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1)):
            predicted = torch.einsum('bvk,bk->bv', memory, k_t)
            error = v_t - predicted
            step = self.surprise(error) * error
            velocity = eta * velocity + torch.einsum('bv,bk->bvk', step, k_t)
            memory = keep * memory + velocity
            recalled.append(torch.einsum('bvk,bk->bv', memory, q_t))
        return self.to_out(torch.stack(recalled, dim=1))


class FeedForward(nn.Sequential):
    def __init__(self, dim, mult=4):
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, dim * mult), nn.GELU(), nn.Linear(dim * mult, dim))


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.to_gate = nn.Linear(2 * dim, 1)
        self.ff = FeedForward(dim)

    def forward(self, x, mask):
        h = self.norm(x)
        attended = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        recalled = self.memory(x)
        gate = self.to_gate(torch.cat((attended, recalled), dim=-1)).sigmoid()
        x = x + gate * recalled + (1. - gate) * attended
        return x + self.ff(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.to_logits = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        n, device = tokens.shape[1], tokens.device
        x = self.token_emb(tokens) + self.pos_emb(torch.arange(n, device=device))
        mask = torch.ones(n, n, dtype=torch.bool, device=device).triu(1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.to_logits(self.norm(x))


if __name__ == '__main__':
    torch.manual_seed(0)
    model = MemoryTransformer()
    seq = torch.randint(0, 256, (2, 16))
    out = model(seq)
    loss = F.cross_entropy(out[:, :-1].flatten(0, 1), seq[:, 1:].flatten())
    loss.backward()
    print(tuple(out.shape), loss.item())
