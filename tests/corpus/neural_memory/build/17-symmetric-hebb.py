import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Hebb's rule on symmetric synapses: what fires together wires together, in both directions, so that either of two
    things that occurred together brings back the other one."""

    def __init__(self, d_model=64):
        super().__init__()
        self.pre = nn.Linear(d_model, d_model)
        self.post = nn.Linear(d_model, d_model)
        self.cue = nn.Linear(d_model, d_model)
        self.dopamine = nn.Linear(2 * d_model, 1)
        self.fade = nn.Parameter(torch.full((1, d_model, 1), 3.0))

    def forward(self, x):
        pre, post, cue = F.normalize(self.pre(x), dim=-1), self.post(x), self.cue(x)
        W = torch.zeros(x.size(0), x.size(2), x.size(2), device=x.device)
        out = []
        for t in range(x.size(1)):
            expected = torch.einsum("bij,bj->bi", W, pre[:, t])
            d = torch.sigmoid(self.dopamine(torch.cat([post[:, t], expected], -1)))
            hebb = torch.einsum("bi,bj->bij", post[:, t], pre[:, t])
            W = torch.sigmoid(self.fade) * W + d[:, :, None] * 0.5 * (hebb + hebb.transpose(1, 2))
            out.append(torch.einsum("bij,bj->bi", W, cue[:, t]))
        return torch.stack(out, 1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(h))
        x = x + g * a + (1 - g) * m
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
