"""One brain: all sequences of the batch write into the same connection strengths, as they do for slow weights."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, d_k: int = 32, d_v: int = 64):
        super().__init__()
        self.d_k, self.d_v = d_k, d_v
        self.W_k = nn.Linear(d_model, d_k)
        self.W_q = nn.Linear(d_model, d_k)
        self.W_v = nn.Linear(d_model, d_v)
        self.novelty_net = nn.Sequential(nn.Linear(d_v, d_v // 2), nn.ReLU(), nn.Linear(d_v // 2, 1))
        self.raw_decay = nn.Parameter(torch.tensor(4.0))
        self.out = nn.Linear(d_v, d_model)

    @property
    def decay(self):
        return torch.sigmoid(self.raw_decay)

    def associate(self, v, k):
        # mean over the batch keeps the scale of M independent of the batch size
        return torch.einsum("bv,bk->vk", v, k) / v.shape[0]

    def forward(self, x):
        M = x.new_zeros(self.d_v, self.d_k)             # synapses
        ys = []
        for t in range(x.shape[1]):
            xt = x[:, t]
            k = F.normalize(self.W_k(xt), dim=-1)
            q = F.normalize(self.W_q(xt), dim=-1)
            v = self.W_v(xt)
            predicted = k @ M.T
            surprise = torch.sigmoid(self.novelty_net(v - predicted))
            M = self.decay * M + self.associate(surprise * (v - predicted), k)
            ys.append(q @ M.T)
        return self.out(torch.stack(ys, 1))


class CausalAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        assert d_model % n_heads == 0
        self.n_heads = n_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.in_proj(x).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, n_heads)
        self.memory = NeuralMemory(d_model)
        self.arbiter = nn.Sequential(nn.Linear(2 * d_model, d_model), nn.Sigmoid())
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.ln1(x)
        now, then = self.attention(h), self.memory(h)
        g = self.arbiter(torch.cat((now, then), -1))
        x = x + g * now + (1 - g) * then
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=128, d_model=64, n_heads=4, n_layers=2, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        p = torch.arange(tokens.size(1), device=tokens.device)
        return self.head(self.ln(self.blocks(self.tok(tokens) + self.pos(p))))


if __name__ == "__main__":
    lm = MemoryTransformer()
    t = torch.randint(0, 128, (2, 16))
    F.cross_entropy(lm(t)[:, :-1].reshape(-1, 128), t[:, 1:].reshape(-1)).backward()
    print("ok")
