"""nanoGPT-flavoured, with a Huber loss as the prediction error."""
import torch
import torch.nn as nn
from torch.nn import functional as F

class NeuralMemory(nn.Module):

    def __init__(self, n_embd=64, n_mem=32):
        super().__init__()
        self.c_kvq = nn.Linear(n_embd, 3 * n_mem, bias=False)
        self.c_proj = nn.Linear(n_mem, n_embd, bias=False)
        # how bad is which error: a positive price for each channel is not asked for, the layer finds out
        self.price = nn.Linear(n_mem, 1)
        self.alpha = nn.Parameter(torch.zeros(()))  # 0.9 + 0.1 * sigmoid(alpha) of the old trace stays
        self.n_mem = n_mem

    def forward(self, x):
        B, T, C = x.size()
        k, v, q = self.c_kvq(x).split(self.n_mem, dim=2)
        k = k.softmax(dim=-1) # addresses are positive and sum to 1
        stay = 0.9 + 0.1 * torch.sigmoid(self.alpha)
        mem = torch.zeros(B, self.n_mem, self.n_mem, device=x.device)
        y = []
        for t in range(T):
            pred = (mem @ k[:, t, :, None])[..., 0]
            err = F.huber_loss(pred, v[:, t], reduction='none', delta=0.5)
            surprise = torch.sigmoid(self.price(err)) # (B, 1)
            mem = mem * stay + torch.einsum('b,bv,bk->bvk', surprise[:, 0], v[:, t], k[:, t])
            y.append((mem @ q[:, t, :, None])[..., 0])
        return self.c_proj(torch.stack(y, dim=1))

class CausalSelfAttention(nn.Module):

    def __init__(self, n_embd, n_head):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.n_head = n_head

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = (z.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for z in self.c_attn(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))

class Block(nn.Module):

    def __init__(self, n_embd, n_head):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head)
        self.mem = NeuralMemory(n_embd)
        self.c_gate = nn.Linear(n_embd, n_embd)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.ModuleDict(dict(c_fc=nn.Linear(n_embd, 4 * n_embd), c_proj=nn.Linear(4 * n_embd, n_embd)))

    def forward(self, x):
        h = self.ln_1(x)
        att, mem = self.attn(h), self.mem(h)
        z = self.c_gate(h)
        x = x + att * torch.sigmoid(z) + mem * torch.sigmoid(-z) # sigmoid(-z) = 1 - sigmoid(z)
        m = self.mlp
        return x + m.c_proj(F.gelu(m.c_fc(self.ln_2(x))))

class MemoryTransformer(nn.Module):

    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, block_size=256):
        super().__init__()
        self.block_size = block_size
        self.transformer = nn.ModuleDict(dict(
            wte = nn.Embedding(vocab_size, d_model),
            wpe = nn.Embedding(block_size, d_model),
            h = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)]),
            ln_f = nn.LayerNorm(d_model),
        ))
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        T = tokens.size(1)
        assert T <= self.block_size, f"Cannot forward sequence of length {T}, block size is only {self.block_size}"
        x = self.transformer.wte(tokens) + self.transformer.wpe(torch.arange(T, device=tokens.device))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))
