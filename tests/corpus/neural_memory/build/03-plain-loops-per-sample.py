# I wrote this without any clever indexing because I kept getting the shapes wrong. It is slow but I can follow it.
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.d = d_model
        self.to_k = nn.Linear(d_model, d_model)
        self.to_v = nn.Linear(d_model, d_model)
        self.to_q = nn.Linear(d_model, d_model)

        # surprise: looks at the token AND at what the memory said about it
        self.s1 = nn.Linear(d_model, 8)
        self.s2 = nn.Linear(d_model, 8)
        self.s3 = nn.Linear(8, 1)

        # forgetting, one number. softplus keeps it positive, exp(-positive) is between 0 and 1
        self.forget = nn.Parameter(torch.tensor(-2.0))

    def one_sequence(self, xs):
        # xs: [T, d], a single sequence
        keys, values, queries = self.to_k(xs), self.to_v(xs), self.to_q(xs)
        M = torch.zeros(self.d, self.d, dtype=xs.dtype, device=xs.device)
        decay = torch.exp(-F.softplus(self.forget))
        outputs = []
        for t in range(len(xs)):
            k = keys[t] / (keys[t].norm() + 1e-6)
            q = queries[t] / (queries[t].norm() + 1e-6)
            v = values[t]
            guess = torch.mv(M, k)
            surprise = torch.sigmoid(self.s3(torch.relu(self.s1(xs[t]) - self.s2(guess))))   # shape [1]
            M = torch.addr(decay * M, v, k * surprise)
            outputs.append(torch.mv(M, q))
        return torch.stack(outputs)

    def forward(self, x):
        results = []
        for b in range(x.shape[0]):
            results.append(self.one_sequence(x[b]))
        return torch.stack(results)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln_mem = nn.LayerNorm(d_model)
        self.mem = NeuralMemory(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.gate_a = nn.Linear(d_model, d_model, bias=False)
        self.gate_m = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=x.device, dtype=x.dtype)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.mem(self.ln_mem(x))
        g = torch.sigmoid(self.gate_a(a) + self.gate_m(m))
        not_g = torch.ones_like(g) - g
        both = g * a + not_g * m
        x = x + both
        x = x + self.mlp(self.ln2(x))
        return x


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
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1))
    loss.backward()
    print(logits.shape, loss.item())
    for n, p in m.named_parameters():
        if p.grad is None or p.grad.abs().sum() == 0:
            print("no gradient:", n)
