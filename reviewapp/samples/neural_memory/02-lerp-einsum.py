import torch
from torch import nn, einsum
from torch.nn.functional import softplus, normalize, cross_entropy


class NeuralMemory(nn.Module):
    """Fast-weight store S in R^{c x a} per sequence; addresses a, contents c."""

    def __init__(self, width=64, addr=24):
        super().__init__()
        self.addr = addr
        self.look = nn.Linear(width, addr, bias=False)
        self.tag = nn.Linear(width, addr, bias=False)
        self.body = nn.Linear(width, width, bias=False)
        self.mismatch = nn.Linear(width, width)
        self.rate = nn.Parameter(torch.full((addr,), -3.0))

    def step(self, S, look, tag, body):
        guess = einsum("bca,ba->bc", S, tag)
        amount = self.mismatch(body - guess).sigmoid()
        hold = (-softplus(self.rate)).exp()
        S = einsum("bca,a->bca", S, hold) + einsum("bc,ba->bca", amount * body, tag)
        return S, einsum("bca,ba->bc", S, look)

    def forward(self, x):
        S = x.new_zeros(x.shape[0], x.shape[2], self.addr)
        looks = normalize(self.look(x), dim=-1).unbind(1)
        tags = normalize(self.tag(x), dim=-1).unbind(1)
        bodies = self.body(x).unbind(1)
        out = []
        for look, tag, body in zip(looks, tags, bodies):
            S, y = self.step(S, look, tag, body)
            out.append(y)
        return torch.stack(out, 1)


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ctx = nn.MultiheadAttention(width, heads, batch_first=True)
        self.store = NeuralMemory(width)
        self.balance = nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        n = x.size(1)
        h = self.n1(x)
        causal = torch.full((n, n), float("-inf"), device=x.device).triu(1)
        near = self.ctx(h, h, h, attn_mask=causal, need_weights=False)[0]
        far = self.store(h)
        x = x + torch.lerp(near, far, self.balance(h).sigmoid())
        return x + self.ff(self.n2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.where = nn.Embedding(max_len, d_model)
        self.layers = nn.Sequential(*[Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.emb(tokens) + self.where.weight[: tokens.size(1)]
        return self.head(self.norm(self.layers(x)))


if __name__ == "__main__":
    net = MemoryTransformer()
    ids = torch.randint(0, 256, (2, 16))
    y = net(ids)
    cross_entropy(y[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    print(y.shape)
