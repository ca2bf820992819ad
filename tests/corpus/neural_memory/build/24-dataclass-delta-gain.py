import torch
import torch.nn as nn
import torch.nn.functional as F
from dataclasses import dataclass, field


@dataclass
class MemoryConfig:
    d_key: int = 32
    d_value: int = 32
    init_retention: float = 0.9
    init_gain: float = 2.0
    init_threshold: float = 0.5


@dataclass
class ModelConfig:
    vocab_size: int = 256
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 2
    max_len: int = 512
    dropout: float = 0.0
    memory: MemoryConfig = field(default_factory=MemoryConfig)


def inv_sigmoid(p: float) -> torch.Tensor:
    return torch.logit(torch.tensor(p))


class NeuralMemory(nn.Module):
    """Fast-weight memory with an error-driven (delta) write.

    How surprising a token is = how far the recalled value is from the actual one. The
    distance is turned into a write strength by a learned gain and a learned threshold.
    """

    def __init__(self, d_model: int, cfg: MemoryConfig):
        super().__init__()
        self.cfg = cfg
        self.wk = nn.Linear(d_model, cfg.d_key, bias=False)
        self.wq = nn.Linear(d_model, cfg.d_key, bias=False)
        self.wv = nn.Linear(d_model, cfg.d_value, bias=False)
        self.wo = nn.Linear(cfg.d_value, d_model, bias=False)
        self.retention = nn.Parameter(inv_sigmoid(cfg.init_retention))
        self.gain = nn.Parameter(torch.tensor(cfg.init_gain))
        self.threshold = nn.Parameter(torch.tensor(cfg.init_threshold))

    def forward(self, x):
        B, T, _ = x.shape
        ks = F.normalize(self.wk(x), dim=-1).unbind(1)
        qs = F.normalize(self.wq(x), dim=-1).unbind(1)
        vs = self.wv(x).unbind(1)
        M = torch.zeros(B, self.cfg.d_value, self.cfg.d_key, device=x.device, dtype=x.dtype)
        retention = self.retention.sigmoid()
        ys = []
        for q, k, v in zip(qs, ks, vs):
            ys.append(torch.einsum("bvk,bk->bv", M, q))          # read what earlier tokens left
            err = v - torch.einsum("bvk,bk->bv", M, k)
            dist = err.pow(2).mean(-1, keepdim=True).add(1e-8).sqrt()
            surprise = torch.sigmoid(self.gain * (dist - self.threshold))
            M = retention * M + torch.einsum("bv,bk->bvk", surprise * err, k)
        return self.wo(torch.stack(ys, 1))


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        d = cfg.d_model
        self.ln1 = nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, cfg.n_heads, dropout=cfg.dropout, batch_first=True)
        self.memory = NeuralMemory(d, cfg.memory)
        self.fuse = nn.Linear(d, 1)
        self.ln2 = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d), nn.Dropout(cfg.dropout))

    def forward(self, x, mask):
        h = self.ln1(x)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = self.memory(h)
        g = torch.sigmoid(self.fuse(h))
        x = x + (g * a + (1 - g) * m)
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, config=None):
        super().__init__()
        cfg = config or ModelConfig(vocab_size, d_model, n_heads, n_layers, max_len)
        self.cfg = cfg
        self.tok = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.pos = nn.Embedding(cfg.max_len, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_f = nn.LayerNorm(cfg.d_model)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.05)

    def forward(self, tokens):
        T = tokens.size(1)
        mask = torch.full((T, T), float("-inf"), device=tokens.device).triu(1)
        x = self.tok(tokens) + self.pos(torch.arange(T, device=tokens.device))
        for b in self.blocks:
            x = b(x, mask)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    model(t).mean().backward()
    print({n: float(p.grad.abs().sum()) for n, p in model.named_parameters() if "memory" in n})
