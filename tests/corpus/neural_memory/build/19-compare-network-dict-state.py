import torch
import torch.nn as nn
import torch.nn.functional as F


class NoveltyNet(nn.Module):
    """Looks at the token and at what memory says about it, and answers with how new it is."""

    def __init__(self, d):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, d), nn.Sigmoid())

    def forward(self, token, recalled):
        return self.net(torch.cat([token, recalled], dim=-1))


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=16):
        super().__init__()
        self.d_key = d_key
        self.proj = nn.ModuleDict({"k": nn.Linear(d_model, d_key), "q": nn.Linear(d_model, d_key), "v": nn.Linear(d_model, d_model)})
        self.novelty_net = NoveltyNet(d_model)
        self.log_decay = nn.Parameter(torch.zeros(1, d_model, 1) - 2.5)

    def new_state(self, x):
        return {"M": x.new_zeros(x.size(0), x.size(2), self.d_key), "steps": 0}

    def write(self, state, x_t):
        k = F.elu(self.proj["k"](x_t)) + 1
        k = k / k.sum(-1, keepdim=True)
        recalled = torch.einsum("bvk,bk->bv", state["M"], k)
        novelty = self.novelty_net(x_t, recalled)
        v = novelty * self.proj["v"](x_t)
        keep = torch.exp(-F.softplus(self.log_decay))
        return {"M": state["M"] * keep + torch.einsum("bv,bk->bvk", v, k), "steps": state["steps"] + 1}

    def read(self, state, x_t):
        q = F.elu(self.proj["q"](x_t)) + 1
        return torch.einsum("bvk,bk->bv", state["M"], q / q.sum(-1, keepdim=True))

    def forward(self, x):
        state = self.new_state(x)
        outputs = []
        for x_t in x.split(1, dim=1):
            x_t = x_t.squeeze(1)
            state = self.write(state, x_t)
            outputs.append(self.read(state, x_t).unsqueeze(1))
        return torch.cat(outputs, dim=1)


class MemoryBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.ln_2 = nn.LayerNorm(d_model)
        self.ln_m = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.fusion_gate = nn.Sequential(nn.Linear(d_model, d_model), nn.Sigmoid())
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        mem = self.memory(self.ln_m(x))
        g = self.fusion_gate(x)
        x = g * mem + (1 - g) * x
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.max_len = max_len
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([MemoryBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        B, T = tokens.shape
        if T > self.max_len:
            raise ValueError(f"sequence of {T} tokens, at most {self.max_len}")
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=tokens.device), diagonal=1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.ln_f(x))
