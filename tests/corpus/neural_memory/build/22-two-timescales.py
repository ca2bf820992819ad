import logging

import torch
import torch.nn as nn
import torch.nn.functional as F

log = logging.getLogger(__name__)


class NeuralMemory(nn.Module):
    """Two matrices with own fading: a fast one (working memory) and a slow one (consolidated memory).

    Both are written with the same association; surprise is what neither of them foresaw.
    """

    def __init__(self, dim: int, slots: int = 24):
        super().__init__()
        self.enc = nn.Linear(dim, 2 * slots)
        self.content = nn.Linear(dim, dim)
        self.fast_rate = nn.Parameter(torch.tensor(0.0))
        self.slow_rate = nn.Parameter(torch.tensor(4.0))
        self.surprise_mlp = nn.Sequential(nn.Linear(3 * dim, dim), nn.LeakyReLU(0.1), nn.Linear(dim, 2))
        self.readout = nn.Linear(2 * dim, dim)
        log.debug("memory of %d x %d, twice", dim, slots)

    def forward(self, x):
        B, T, D = x.shape
        key, cue = self.enc(x).chunk(2, -1)
        key, cue = F.normalize(key, dim=-1), F.normalize(cue, dim=-1)
        val = self.content(x)
        bank = x.new_zeros(2, B, D, key.size(-1))
        rates = torch.stack([self.fast_rate, self.slow_rate]).sigmoid().view(2, 1, 1, 1)
        reads = []
        for t in range(T):
            seen = torch.einsum("rbdk,bk->rbd", bank, key[:, t])
            novelty = torch.sigmoid(self.surprise_mlp(torch.cat([val[:, t], seen[0], seen[1]], -1)))     # B, 2
            trace = torch.einsum("bd,bk->bdk", val[:, t], key[:, t])
            bank = rates * bank + novelty.t()[:, :, None, None] * trace
            reads.append(torch.einsum("rbdk,bk->brd", bank, cue[:, t]).flatten(1))
        return self.readout(torch.stack(reads, 1))


class GatedMix(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.score = nn.Linear(dim, 2)

    def forward(self, context, attended, recalled):
        share = self.score(context).softmax(dim=-1)
        return share[..., :1] * attended + share[..., 1:] * recalled


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.register_buffer("sinusoid", self._sinusoid(max_len, d_model))
        parts = {"n1": nn.LayerNorm, "n2": nn.LayerNorm, "memory": NeuralMemory, "mix": GatedMix}
        for name, kind in parts.items():
            setattr(self, name, nn.ModuleList(kind(d_model) for _ in range(n_layers)))
        self.attention = nn.ModuleList(nn.MultiheadAttention(d_model, n_heads, batch_first=True) for _ in range(n_layers))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(d_model, 256), nn.GELU(), nn.Linear(256, d_model)) for _ in range(n_layers))
        self.to_logits = nn.Linear(d_model, vocab_size, bias=False)

    @staticmethod
    def _sinusoid(length, dim):
        pos = torch.arange(length).float().unsqueeze(1)
        freq = torch.pow(10000.0, -torch.arange(0, dim, 2).float() / dim)
        return torch.cat([torch.sin(pos * freq), torch.cos(pos * freq)], dim=1)

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.embedding(tokens) + self.sinusoid[:T]
        mask = torch.triu(torch.ones(T, T, device=tokens.device), 1) == 1
        for n1, n2, mem, mix, att, mlp in zip(self.n1, self.n2, self.memory, self.mix, self.attention, self.mlp):
            h = n1(x)
            x = x + mix(h, att(h, h, h, attn_mask=mask)[0], mem(h))
            x = x + mlp(n2(x))
        return self.to_logits(x)
