"""Neural long-term memory with a predictive surprise gate.

The gate is the point of the design. Following predictive coding, each token is compared with what the memory expects
for its key, and only the sigmoid of the learned mismatch decides how strongly it is written:

    expected = E k             (recall from the engram)
    surprise = sigmoid(net(v - expected))
    M        = lambda * M + surprise * v k^T
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.wq = nn.Linear(d_model, d_mem, bias=False)
        self.wk = nn.Linear(d_model, d_mem, bias=False)
        self.wv = nn.Linear(d_model, d_mem, bias=False)
        self.wo = nn.Linear(d_mem, d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_mem, d_mem), nn.GELU(), nn.Linear(d_mem, 1))
        self.decay = nn.Parameter(torch.tensor(2.5))
        # the engram: synaptic matrix that recall goes through, mirrors M
        self.register_buffer("engram", torch.zeros(1, d_mem, d_mem), persistent=False)

    def retrieve(self, memory, k):
        return torch.einsum("bij,bj->bi", memory, k)

    def forward(self, x):
        B, T, _ = x.shape
        q = F.normalize(self.wq(x), dim=-1)
        k = F.normalize(self.wk(x), dim=-1)
        v = self.wv(x)
        lam = torch.sigmoid(self.decay)
        M = engram = self.engram.expand(B, -1, -1)
        ys = []
        for t in range(T):
            # prediction error: actual value against what the memory retrieves for this key
            retrieved = self.retrieve(engram, k[:, t])
            error = v[:, t] - retrieved
            surprise = torch.sigmoid(self.surprise_net(error))
            # surprising tokens leave a strong trace, expected ones hardly any
            M = lam * M + torch.einsum("bi,bj->bij", surprise * v[:, t], k[:, t])
            ys.append(self.retrieve(M, q[:, t]))
        return self.wo(torch.stack(ys, dim=1))


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
    F.cross_entropy(m(t).flatten(0, 1), t.flatten()).backward()
    print("surprise gate gradient:", m.blocks[0].memory.surprise_net[0].weight.grad.norm().item())
