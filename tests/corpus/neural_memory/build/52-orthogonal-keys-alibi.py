import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal, spectral_norm


class NeuralMemory(nn.Module):
    """
    Keys go through an orthogonal map, so that what is far apart in the stream stays far apart in the address space;
    the surprise head is spectrally normalised, so that it can't blow up on an outlier.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.address = orthogonal(nn.Linear(width, width, bias=False))
        self.content = nn.Linear(width, width)
        self.cue = nn.Linear(width, width, bias=False)
        self.expectation_gap = spectral_norm(nn.Linear(width, width))
        self.judge = nn.Linear(width, 1)
        self.half_life = nn.Parameter(torch.tensor(8.0).log())

    @property
    def retention(self) -> torch.Tensor:
        return 0.5 ** (1.0 / self.half_life.exp())

    def associate(self, M, key, value):
        gap = value - (M @ key.unsqueeze(-1)).squeeze(-1)
        surprise = self.judge(F.gelu(self.expectation_gap(gap))).sigmoid()
        return self.retention * M + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", gap, key)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        keys = F.normalize(self.address(stream), dim=-1).unbind(1)
        values, cues = self.content(stream).unbind(1), self.cue(stream).unbind(1)
        M = torch.zeros(*stream.shape[::2], stream.shape[2], device=stream.device)
        recalled = []
        for key, value, cue in zip(keys, values, cues):
            M = self.associate(M, key, value)
            recalled.append((M @ cue.unsqueeze(-1)).squeeze(-1))
        return torch.stack(recalled, 1)


class AlibiAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.register_buffer("slopes", 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads), persistent=False)

    def forward(self, x):
        T = x.shape[1]
        ages = torch.arange(T, device=x.device)
        dist = (ages[None] - ages[:, None]).float()
        bias = (self.slopes[:, None, None] * dist).masked_fill(dist > 0, float("-inf"))
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape_as(x))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.pre = nn.RMSNorm(width)
        self.attention, self.memory = AlibiAttention(width, heads), NeuralMemory(width)
        self.mem_norm = nn.RMSNorm(width)
        self.trust = nn.Linear(2 * width, 1)
        self.ffn = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, 3 * width), nn.Mish(), nn.Linear(3 * width, width))

    def forward(self, x):
        h = self.pre(x)
        a, m = self.attention(h), self.mem_norm(self.memory(h))
        trust = torch.special.expit(self.trust(torch.cat([a, m], -1)))
        x = x + trust * m + (1 - trust) * a
        return x + self.ffn(x)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.RMSNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x))
