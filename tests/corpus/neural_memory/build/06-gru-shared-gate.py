import torch
from torch import nn


class NeuralMemory(nn.Module):
    # One gate in the manner of a GRU: what is surprising replaces, what was foreseen stays.
    def __init__(self, width=40):
        super().__init__()
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.compare = nn.Linear(width * 2, 1)
        nn.init.constant_(self.compare.bias, -1.0)

    def forward(self, seq):              # seq: T, B, width
        T, B, W = seq.shape
        memory = seq.new_zeros((B, W, W))
        outputs = torch.empty_like(seq)
        outs = []
        for x in seq:
            k = torch.softmax(self.key(x), dim=-1)
            v = torch.tanh(self.value(x))
            recalled = (memory * k[:, None, :]).sum(-1)
            z = torch.sigmoid(self.compare(torch.cat((v, recalled), dim=1)))[:, :, None]
            memory = (1 - z) * memory + z * (v[:, :, None] * k[:, None, :])
            outs.append((memory * k[:, None, :]).sum(-1))
        del outputs
        return torch.stack(outs)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=96, d_model=40, n_heads=4, n_layers=1, max_len=300):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.attn = nn.ModuleList([nn.MultiheadAttention(d_model, n_heads) for _ in range(n_layers)])
        self.mem = nn.ModuleList([NeuralMemory(d_model) for _ in range(n_layers)])
        self.gate = nn.ModuleList([nn.Linear(d_model, d_model) for _ in range(n_layers)])
        self.ff = nn.ModuleList([nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, d_model)) for _ in range(n_layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        t = tokens.t()                                   # everything is time-first
        T = t.shape[0]
        x = self.emb(t) + self.pos.weight[:T].unsqueeze(1)
        causal = torch.full((T, T), float("-inf"), device=x.device).triu(1)
        for attn, mem, gate, ff, norm in zip(self.attn, self.mem, self.gate, self.ff, self.norms):
            h = norm(x)
            a = attn(h, h, h, attn_mask=causal, need_weights=False)[0]
            m = mem(h)
            w = gate(h).sigmoid()
            x = x + torch.lerp(m, a, w)
            x = x + ff(x)
        return self.out(x).transpose(0, 1)
