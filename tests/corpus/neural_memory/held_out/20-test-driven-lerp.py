import torch
from torch import nn
import torch.nn.functional as F


def recall(M, k):
    """M: [B, Dv, Dk], k: [B, Dk] -> [B, Dv]"""
    return torch.bmm(M, k[:, :, None])[:, :, 0]


def associate(v, k):
    """v k^T for every sequence in the batch."""
    return torch.bmm(v[:, :, None], k[:, None, :])


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=48):
        super().__init__()
        self.d_mem = d_mem
        self.key = nn.Linear(d_model, d_mem)
        self.value = nn.Linear(d_model, d_mem)
        self.query = nn.Linear(d_model, d_mem)
        self.novelty = nn.Sequential(nn.Linear(d_mem, d_mem), nn.Tanh(), nn.Linear(d_mem, d_mem))
        self.decay = nn.Parameter(torch.linspace(1.0, 5.0, d_mem))   # one time scale a value channel
        self.out = nn.Linear(d_mem, d_model)

    def update(self, M, k, v):
        surprise = self.novelty(v - recall(M, k)).sigmoid()          # [B, Dv]
        keep = self.decay.sigmoid()[None, :, None]
        return keep * M + associate(surprise * v, k)

    def forward(self, x):
        k = F.softmax(self.key(x), dim=-1)
        q = F.softmax(self.query(x), dim=-1)
        v = self.value(x)
        M = x.new_zeros(x.size(0), self.d_mem, self.d_mem)
        out = torch.empty(x.size(0), x.size(1), self.d_mem, dtype=x.dtype, device=x.device)
        outs = []
        for t in range(x.size(1)):
            M = self.update(M, k[:, t], v[:, t])
            outs.append(recall(M, q[:, t]))
        out = torch.stack(outs, dim=1)
        return self.out(out)


class Layer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norm_a = nn.LayerNorm(d_model)
        self.norm_f = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.ReLU(), nn.Linear(2 * d_model, d_model))

    def forward(self, x):
        h = self.norm_a(x)
        causal = nn.Transformer.generate_square_subsequent_mask(x.size(1)).to(x.device)
        a, _ = self.attn(h, h, h, attn_mask=causal, is_causal=True, need_weights=False)
        x = x + torch.lerp(self.mem(h), a, torch.sigmoid(self.mix(h)))
        return x + self.ff(self.norm_f(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=1024):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.wpe = nn.Embedding(max_len, d_model)
        self.layers = nn.Sequential(*[Layer(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[-1], device=tokens.device)
        return self.unembed(self.norm(self.layers(self.wte(tokens) + self.wpe(positions))))


# --------------------------------------------------------------------------- tests
def test_shapes():
    for b, t in [(2, 16), (1, 1), (3, 9)]:
        assert MemoryTransformer()(torch.randint(0, 256, (b, t))).shape == (b, t, 256)


def test_all_parameters_get_gradients():
    m = MemoryTransformer()
    m(torch.randint(0, 256, (2, 16))).pow(2).mean().backward()
    missing = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing, missing


def test_causal():
    m = MemoryTransformer().eval()
    a = torch.randint(0, 256, (1, 12))
    b = a.clone()
    b[0, 8:] = (b[0, 8:] + 1) % 256
    assert torch.allclose(m(a)[0, :8], m(b)[0, :8], atol=1e-5)
    assert not torch.allclose(m(a)[0, 8:], m(b)[0, 8:], atol=1e-3)


def test_memory_recalls_a_pair():
    mem = NeuralMemory(8, 8)
    k, v = torch.eye(8)[:2], torch.randn(2, 8)
    M = mem.update(torch.zeros(2, 8, 8), k, v)
    assert torch.equal(recall(M, k).sign(), v.sign())


if __name__ == "__main__":
    for name, fn in list(globals().items()):
        if name.startswith("test_"):
            fn()
            print("ok", name)
