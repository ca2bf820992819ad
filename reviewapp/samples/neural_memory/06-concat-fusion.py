import torch
import torch.nn as nn
import torch.nn.functional as F


class MemoryCell(nn.Module):
    """One time step of the memory."""

    def __init__(self, dim, mem_dim):
        super().__init__()
        self.Wk = nn.Linear(dim, mem_dim, bias=False)
        self.Wv = nn.Linear(dim, mem_dim, bias=False)
        self.Wq = nn.Linear(dim, mem_dim, bias=False)
        self.surprise_scale = nn.Parameter(torch.tensor(1.0))
        self.surprise_bias = nn.Parameter(torch.tensor(-1.0))
        self.lam = nn.Parameter(torch.zeros(mem_dim, 1) + 2.5)

    def forward(self, x, M):
        k = F.normalize(self.Wk(x), dim=-1)
        v = self.Wv(x)
        q = F.normalize(self.Wq(x), dim=-1)

        v_hat = (M @ k[..., None])[..., 0]
        err = (v - v_hat).pow(2).mean(-1, keepdim=True)
        surprise = torch.sigmoid(self.surprise_scale * err + self.surprise_bias)

        M = torch.sigmoid(self.lam) * M + surprise[..., None] * (v[:, :, None] * k[:, None, :])
        y = (M @ q[..., None])[..., 0]
        return y, M


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, mem_dim=32):
        super().__init__()
        self.mem_dim = mem_dim
        self.cell = MemoryCell(dim, mem_dim)
        self.up = nn.Linear(mem_dim, dim)

    def forward(self, x, M=None):
        if M is None:
            M = x.new_zeros(x.size(0), self.mem_dim, self.mem_dim)
        ys = []
        for x_t in x.unbind(dim=1):
            y, M = self.cell(x_t, M)
            ys.append(y)
        return self.up(torch.stack(ys, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        # lets the model learn how to combine short-term (attention) and long-term (memory) information
        self.fusion = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.memory(h)
        x = x + self.fusion(torch.cat([attn_out, mem_out], dim=-1))
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
