import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64):
        super().__init__()
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        # prediction error -> how strongly should this token be written
        self.surprise_net = nn.Linear(d_model, d_model)
        # memories fade by 5% per step
        self.decay = nn.Parameter(torch.tensor(0.95), requires_grad=False)

    def forward(self, x):
        bsz, seq_len, dim = x.shape
        memory = x.new_zeros(bsz, dim, dim)
        out = torch.empty_like(x)
        reads = []
        for t in range(seq_len):
            x_t = x[:, t]
            q_t = self.q_proj(x_t)
            k_t = F.normalize(self.k_proj(x_t), dim=-1)
            v_t = self.v_proj(x_t)

            prediction = torch.einsum("bvk,bk->bv", memory, k_t)
            surprise = torch.sigmoid(self.surprise_net(v_t - prediction))
            write = torch.einsum("bv,bk->bvk", surprise * v_t, k_t)
            memory = self.decay * memory + write
            reads.append(torch.einsum("bvk,bk->bv", memory, q_t) / dim ** 0.5)
        out = torch.stack(reads, 1)
        return out


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.neural_memory = NeuralMemory(d_model)
        self.gate_proj = nn.Linear(2 * d_model, 1)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.neural_memory(h)
        g = self.gate_proj(torch.cat((attn_out, mem_out), dim=-1)).sigmoid()
        x = x + (g * attn_out + (1.0 - g) * mem_out)
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
