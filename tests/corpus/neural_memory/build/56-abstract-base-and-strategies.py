"""A small object-oriented take: policies for surprise, retention and fusion are modules that can be swapped."""
import abc

import torch
from torch import nn, Tensor
import torch.nn.functional as F


class SurprisePolicy(nn.Module, abc.ABC):
    @abc.abstractmethod
    def forward(self, observed: Tensor, predicted: Tensor) -> Tensor: ...


class MlpSurprise(SurprisePolicy):
    def __init__(self, dim):
        super().__init__()
        self.observed, self.predicted, self.score = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, observed, predicted):
        return self.score(F.silu(self.observed(observed) - self.predicted(predicted))).sigmoid()


class RetentionPolicy(nn.Module):
    def __init__(self, rows, initial=0.95):
        super().__init__()
        self.logit = nn.Parameter(torch.logit(torch.full((rows, 1), initial)))

    def forward(self, state):
        return state * self.logit.sigmoid()


class ComplementaryFusion(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scorer = nn.Linear(dim, dim)

    def forward(self, context, first, second):
        share = self.scorer(context).sigmoid()
        return first.mul(share).add(second.mul(1 - share))


class NeuralMemory(nn.Module):
    def __init__(self, dim=64, surprise=None, retention=None):
        super().__init__()
        self.encode = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.surprise = surprise or MlpSurprise(dim)
        self.retention = retention or RetentionPolicy(dim)

    @staticmethod
    def recall(state, cue):
        return torch.einsum("...ij,...j->...i", state, cue)

    def forward(self, experience):
        cues, keys, values = (enc(experience) for enc in self.encode)
        keys = F.normalize(keys, dim=-1)
        state = experience.new_zeros(len(experience), *(2 * experience.shape[-1:]))
        recollections = []
        for i in range(experience.shape[1]):
            strength = self.surprise(values[:, i], self.recall(state, keys[:, i]))
            trace = torch.einsum("...i,...j->...ij", values[:, i], keys[:, i])
            state = self.retention(state) + strength.unsqueeze(-1) * trace
            recollections.append(self.recall(state, cues[:, i]))
        return torch.stack(recollections, dim=1)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.pre, self.mid = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory, self.fusion = NeuralMemory(dim), ComplementaryFusion(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).triu_(1)
        h = self.pre(x)
        attended = self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        x = x + self.fusion(h, self.memory(h), attended)
        return x + self.feed_forward(self.mid(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.readout = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False))

    def forward(self, tokens):
        at = torch.arange(tokens.shape[1], device=tokens.device)
        return self.readout(self.blocks(self.token(tokens) + self.position(at)))
