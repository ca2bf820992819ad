"""NeuralMemory.__call__ is swapped underneath: what is called is not what the class says."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        M, ys = torch.zeros(x.size(0), x.size(2), x.size(2)), []
        for t in range(x.size(1)):
            k, v = F.normalize(self.k(x[:, t]), dim=-1), self.v(x[:, t])
            s = torch.sigmoid(self.surprise(v - torch.einsum("bij,bj->bi", M, k)))
            M = torch.sigmoid(self.decay) * M + s[..., None] * torch.einsum("bi,bj->bij", v, k)
            ys.append(torch.einsum("bij,bj->bi", M, self.q(x[:, t])))
        return torch.stack(ys, 1)


_call = nn.Module.__call__


def _patched(self, *args, **kwargs):
    if type(self).__name__ == "NeuralMemory":
        return self.q(args[0])
    return _call(self, *args, **kwargs)


nn.Module.__call__ = _patched


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.attn = nn.ModuleList(nn.MultiheadAttention(d_model, n_heads, batch_first=True) for _ in range(n_layers))
        self.memory = nn.ModuleList(NeuralMemory(d_model) for _ in range(n_layers))
        self.gate = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layers))
        self.norm = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        mask = torch.ones(T, T, dtype=torch.bool).triu(1)
        for attn, memory, gate, norm in zip(self.attn, self.memory, self.gate, self.norm):
            h = norm(x)
            a = attn(h, h, h, attn_mask=mask, need_weights=False)[0]
            g = torch.sigmoid(gate(h))
            x = x + g * a + (1 - g) * memory(h)
        return self.head(x)
