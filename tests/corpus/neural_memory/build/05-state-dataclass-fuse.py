"""neural_memory.py - LTM block (v3, after review)

changes since v2: gate sees cos + log-ratio + raw parts instead of the bare norm; alpha comes from the token *and* a
base rate; fuse() is a free function so that it can be unit-tested.
"""
import dataclasses
import torch
from torch import nn, Tensor
from torch.nn.functional import cosine_similarity, layer_norm, normalize


@dataclasses.dataclass(slots=True)
class MemState:
    W: Tensor                       # [B, H, dk, dv]  (key-major: a read is k @ W)

    @classmethod
    def blank(cls, b, h, dk, dv, ref):
        return cls(ref.new_zeros((b, h, dk, dv)))

    def peek(self, k: Tensor) -> Tensor:
        return torch.einsum("...k,...kv->...v", k, self.W)

    def fade(self, alpha: Tensor) -> "MemState":
        return dataclasses.replace(self, W=self.W * alpha)

    def bind(self, k: Tensor, v: Tensor) -> "MemState":
        return dataclasses.replace(self, W=self.W + torch.einsum("...k,...v->...kv", k, v))


def fuse(a: Tensor, m: Tensor, logits: Tensor) -> Tensor:
    """convex combination, p(attend) = sigmoid(logits)"""
    p = torch.stack([logits, torch.zeros_like(logits)], -1).softmax(-1)
    return (torch.stack([a, m], -1) * p).sum(-1)


class SurpriseGate(nn.Module):
    def __init__(self, dv: int):
        super().__init__()
        self.features = nn.Linear(2 + 2 * dv, dv)
        self.out = nn.Linear(dv, 1)
        nn.init.constant_(self.out.bias, 0.3)

    def forward(self, v: Tensor, r: Tensor) -> Tensor:
        cos = cosine_similarity(v, r, dim=-1, eps=1e-4).unsqueeze(-1)
        ratio = torch.log1p((v - r).pow(2).mean(-1, keepdim=True))
        z = self.features(torch.cat([cos, ratio, layer_norm(v, v.shape[-1:]), r], -1))
        return torch.sigmoid(self.out(nn.functional.mish(z)))


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int = 64, heads: int = 2):
        super().__init__()
        self.heads, self.dh = heads, d_model // heads
        self.kvq = nn.ModuleDict({n: nn.Linear(d_model, d_model, bias=False) for n in "kvq"})
        self.base = nn.Parameter(torch.full((heads,), 2.5))
        self.alpha = nn.Linear(d_model, heads)
        nn.init.zeros_(self.alpha.bias)
        self.gate = SurpriseGate(self.dh)
        self.o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        k, v, q = (self.kvq[c](x).view(b, n, self.heads, self.dh) for c in "kvq")
        k, q = normalize(k, dim=-1), normalize(q, dim=-1)
        alpha = torch.sigmoid(self.base + self.alpha(x))[..., None, None]          # [B, N, H, 1, 1]

        state, reads = MemState.blank(b, self.heads, self.dh, self.dh, x), []
        for i in range(n):
            s = self.gate(v[:, i], state.peek(k[:, i]))
            state = state.fade(alpha[:, i]).bind(k[:, i], s * v[:, i])
            reads.append(state.peek(q[:, i]))
        return self.o(torch.stack(reads, dim=1).flatten(-2))


class Block(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(d) for _ in range(3))
        self.attn = nn.MultiheadAttention(d, heads, batch_first=True)
        self.ltm = NeuralMemory(d)
        self.arbiter = nn.Sequential(nn.Linear(2 * d, d // 2), nn.SiLU(), nn.Linear(d // 2, d))
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))

    def forward(self, x: Tensor, causal: Tensor) -> Tensor:
        u = self.ln1(x)
        a = self.attn(u, u, u, attn_mask=causal, is_causal=True, need_weights=False)[0]
        m = self.ltm(u)
        x = x + self.ln3(fuse(a, m, self.arbiter(torch.cat((u, m), -1))))
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.h = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(mod):
        if isinstance(mod, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(mod.weight, std=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.size(1)
        causal = torch.full((n, n), float("-inf"), device=tokens.device).triu(1)
        x = self.wte(tokens) + self.wpe(torch.arange(n, device=tokens.device))
        for blk in self.h:
            x = blk(x, causal)
        return self.lm_head(self.ln_f(x))


def _smoke():
    torch.manual_seed(0)
    net, ids = MemoryTransformer(), torch.randint(0, 256, (2, 16))
    out = net(ids)
    nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    a, m = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.allclose(fuse(a, m, torch.zeros(3, 4)), (a + m) / 2)
    assert all(p.grad is not None for p in net.parameters())
    print(tuple(out.shape), "ok")


if __name__ == "__main__":
    _smoke()
