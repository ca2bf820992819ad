import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    def __init__(self, n_embd=72, n_mem=24):
        super().__init__()
        self.n_mem = n_mem
        self.key = nn.Linear(n_embd, n_mem, bias=False)
        self.value = nn.Linear(n_embd, n_embd, bias=False)
        self.familiarity = nn.Linear(n_embd, 1)
        self.decay = nn.Parameter(torch.tensor(0.5))
        self.ln = nn.LayerNorm(n_embd)

    def forward(self, x):
        B, T, C = x.shape
        mem = torch.zeros(B, C, self.n_mem, device=x.device)
        y = []
        for t in range(T):
            k = torch.softmax(self.key(x[:, t]), dim=-1)
            v = self.value(x[:, t])
            recalled = torch.einsum("bcm,bm->bc", mem, k)
            novelty = 1 - torch.sigmoid(self.familiarity(recalled))   # little recalled: new
            write = torch.sigmoid(self.decay) * novelty.unsqueeze(-1) * torch.einsum("bc,bm->bcm", v, k)
            mem = mem + write
            y.append(torch.einsum("bcm,bm->bc", mem, k))
        return self.ln(torch.stack(y, dim=1))


class Block(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = nn.MultiheadAttention(n_embd, n_head, batch_first=True)
        self.mem = NeuralMemory(n_embd)
        self.fusion = nn.Linear(2 * n_embd, n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x):
        T = x.size(1)
        h = self.ln_1(x)
        attn_out = self.attn(h, h, h, attn_mask=torch.triu(torch.ones(T, T, device=x.device), 1).bool(), need_weights=False)[0]
        mem_out = self.mem(h)
        fusion = torch.sigmoid(self.fusion(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + (fusion * attn_out + (1.0 - fusion) * mem_out)
        x = x + self.mlp(self.ln_2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=72, n_heads=6, n_layers=2, block_size=256):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, d_model), nn.Embedding(block_size, d_model)
        self.h = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))
