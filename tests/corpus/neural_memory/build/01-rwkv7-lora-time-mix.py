# RWKV-style block with an associative state, written after reading the RWKV-7 and DeltaNet papers.
#   S_t = diag(w_t) S_{t-1} + a_t * (v_t - S_{t-1} k_t) k_t^T          (state: value rows x key columns, per head)
#   a_t = sigmoid(a0 + lora([v_t ; S_{t-1} k_t ; (v_t - S_{t-1} k_t)^2]))    how wrong was the state about k_t?
#   w_t = exp(-exp(w0 + lora(x_t)))                                    per value channel
import torch
import torch.nn as nn
import torch.nn.functional as F


def token_shift(x, mu):
    prev = F.pad(x, (0, 0, 1, -1))
    return torch.addcmul(x, prev - x, mu)


class LoRA(nn.Module):
    def __init__(self, n_in, n_out, rank, bias):
        super().__init__()
        self.A = nn.Parameter(torch.randn(n_in, rank) * n_in ** -0.5)
        self.B = nn.Parameter(torch.randn(rank, n_out) * 0.1 * rank ** -0.5)
        self.lam = nn.Parameter(bias.clone())

    def forward(self, x):
        return self.lam + torch.tanh(x @ self.A) @ self.B


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, n_head=2, rank=16):
        super().__init__()
        self.H, self.N = n_head, d_model // n_head
        N = self.N
        self.mu = nn.ParameterList(torch.full((d_model,), 0.5) for _ in range(4))
        self.rkv = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.w_lora = LoRA(d_model, d_model, rank, torch.linspace(-6.0, -1.0, d_model))
        self.a_lora = LoRA(3 * N, N, rank, torch.full((N,), -0.5))
        self.ln_x = nn.GroupNorm(n_head, d_model, eps=64e-5)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def wkv(self, S, r, w, k, v):
        recall = torch.matmul(S, k[..., None])[..., 0]
        err = v - recall
        a = torch.sigmoid(self.a_lora(torch.cat((v, recall, err.square()), dim=-1)))
        S = S * w[..., None] + (a * err)[..., None] * k[..., None, :]
        return S, torch.matmul(S, r[..., None])[..., 0]

    def forward(self, x):
        B, T, C = x.shape
        xr, xw, xk, xv = (token_shift(x, m) for m in self.mu)
        r, k, v = (f(z).view(B, T, self.H, self.N) for f, z in zip(self.rkv, (xr, xk, xv)))
        k = F.normalize(k, dim=-1)
        w = torch.exp(-torch.exp(self.w_lora(xw))).view(B, T, self.H, self.N)
        S = x.new_zeros(B, self.H, self.N, self.N)
        ys = []
        for t in range(T):
            S, y = self.wkv(S, r[:, t], w[:, t], k[:, t], v[:, t])
            ys.append(y.flatten(1))
        y = torch.stack(ys, 1)
        return self.out(self.ln_x(y.flatten(0, 1)).view(B, T, C))


class LocalAttention(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h, self.qkv, self.o = h, nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.h, -1)).permute(2, 0, 3, 1, 4)
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class ChannelMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mu = nn.Parameter(torch.full((d,), 0.5))
        self.key, self.value = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x):
        return self.value(F.relu(self.key(token_shift(x, self.mu))) ** 2)


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.att, self.mem, self.ffn = LocalAttention(d, h), NeuralMemory(d), ChannelMix(d)
        self.g_lora = LoRA(d, d, 16, torch.zeros(d))

    def forward(self, x):
        h = self.ln1(x)
        g = torch.sigmoid(self.g_lora(h))
        x = x + g * self.att(h) + (1 - g) * self.mem(h)
        return x + self.ffn(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.ln0, self.ln_out = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        p = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.ln_out(self.blocks(self.ln0(self.emb(tokens) + self.pos(p)))))


if __name__ == "__main__":
    model = MemoryTransformer()
    ids = torch.randint(256, (2, 32))
    loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    print(float(loss), sum(p.numel() for p in model.parameters()))
