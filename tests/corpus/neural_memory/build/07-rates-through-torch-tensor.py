import torch
import torch.nn as nn
import torch.nn.functional as F

# four groups of channels with a retention of 1 - 2^-e each (RetNet), and the exponents e are learned


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, groups=4):
        super().__init__()
        self.group_size = d_model // groups
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.decay_exponents = nn.Parameter(torch.arange(3.0, 3.0 + groups))
        self.see = nn.Linear(d_model, d_model)
        self.expect = nn.Linear(d_model, d_model, bias=False)
        self.judge = nn.Linear(d_model, 1)
        self.proj = nn.Linear(d_model, d_model)

    def surprise(self, value, recalled):
        return self.judge(F.gelu(self.see(value) - self.expect(recalled))).sigmoid()

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        rates = torch.tensor([1 - 2 ** -e for e in self.decay_exponents], device=x.device)
        keep = rates.repeat_interleave(self.group_size).view(1, -1, 1)

        M = x.new_zeros(x.size(0), x.size(-1), x.size(-1))
        reads = []
        for qt, kt, vt in zip(*(z.unbind(dim=1) for z in (q, k, v))):
            rt = torch.einsum("bij,bj->bi", M, kt)
            st = self.surprise(vt, rt)
            M = keep * M + torch.einsum("bi,bj->bij", st * vt, kt)
            reads.append(torch.einsum("bij,bj->bi", M, qt))
        return self.proj(torch.stack(reads, dim=1))


class CausalSelfAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.c_attn = nn.Linear(d_model, 3 * d_model)
        self.c_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        k = k.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2)
        q = q.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2)
        v = v.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = CausalSelfAttention(d_model, n_heads)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Sequential(nn.Linear(3 * d_model, d_model), nn.Tanh(), nn.Linear(d_model, 1), nn.Sigmoid())
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        h = self.ln_1(x)
        short, long = self.attn(h), self.memory(h)
        g = self.gate(torch.cat((h, short, long), dim=-1))
        x = x + (g * short + (1.0 - g) * long)
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocab_size, d_model),
            wpe=nn.Embedding(max_len, d_model),
            h=nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)]),
            ln_f=nn.LayerNorm(d_model),
        ))
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        tr = self.transformer
        x = tr.wte(tokens) + tr.wpe(torch.arange(tokens.size(1), device=tokens.device))
        for block in tr.h:
            x = block(x)
        return self.lm_head(tr.ln_f(x))


if __name__ == "__main__":
    torch.manual_seed(1337)
    model = MemoryTransformer()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    data = torch.randint(0, 256, (4, 24))
    for step in range(5):
        logits = model(data)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), data[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        print(step, round(loss.item(), 4))
