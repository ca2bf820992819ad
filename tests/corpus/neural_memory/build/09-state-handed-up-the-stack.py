import torch, torch.nn as nn, torch.nn.functional as F

"""One long-term memory for the whole network, as in the brain: every layer reads and writes the same association
matrix. A layer gets the matrix from the layer below, goes through the tokens, and hands it on to the layer above."""


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.Wk, self.Wv, self.Wq = (nn.Linear(d_model, d_mem, bias=False) for _ in range(3))
        self.novelty = nn.Sequential(nn.Linear(2 * d_mem, d_mem), nn.Tanh(), nn.Linear(d_mem, 1), nn.Sigmoid())
        self.forget = nn.Linear(d_model, d_mem)
        nn.init.constant_(self.forget.bias, 3.0)
        self.Wo = nn.Linear(d_mem, d_model)

    def init_state(self, batch, device, dtype):
        return torch.zeros(batch, self.d_mem, self.d_mem, device=device, dtype=dtype)

    def step(self, x_t, S):
        k = F.softmax(self.Wk(x_t), dim=-1)
        v = self.Wv(x_t)
        r = torch.matmul(S, k.unsqueeze(-1)).squeeze(-1)
        n = self.novelty(torch.cat([v, r], dim=-1))
        f = torch.sigmoid(self.forget(x_t)).unsqueeze(-1)
        S = f * S + (n * v).unsqueeze(-1) * k.unsqueeze(-2)
        q = F.softmax(self.Wq(x_t), dim=-1)
        return self.Wo(torch.matmul(S, q.unsqueeze(-1)).squeeze(-1)), S

    def forward(self, x, S):
        ys = []
        for t in range(x.size(1)):
            y, S = self.step(x[:, t], S)
            ys.append(y)
        return torch.stack(ys, 1), S


class Block(nn.Module):
    def __init__(self, d_model, n_heads, memory):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = memory
        self.g = nn.Linear(2 * d_model, 1)

    def forward(self, x, S):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m, S = self.memory(h, S)
        g = torch.sigmoid(self.g(torch.cat([a, m], -1)))
        x = x + m + g * (a - m)
        return x + self.mlp(self.ln2(x)), S


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.memory = NeuralMemory(d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, self.memory) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        S = self.memory.init_state(x.size(0), x.device, x.dtype)
        for blk in self.blocks:
            x, S = blk(x, S)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
