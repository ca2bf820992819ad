"""
Design notes
------------
The cortex here is an ordinary pre-norm GPT. One "hippocampus" (NeuralMemory) sits on top of the stack and sees the
finished representation of every token, so the associations are between contextualised features and not between raw
embeddings. What it recalls is blended back into the stream by a single gate, and a small read-out MLP follows.

One memory instead of one per layer: the step loop is the slow part, this way it runs once.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Fast synaptic matrix written by surprise."""

    def __init__(self, d_model=64, d_mem=40):
        super().__init__()
        self.d_mem = d_mem
        self.cue = nn.Linear(d_model, d_mem, bias=False)       # key
        self.content = nn.Linear(d_model, d_mem, bias=False)   # value
        self.probe = nn.Linear(d_model, d_mem, bias=False)     # query
        # prediction-error circuit
        self.err_weight = nn.Parameter(torch.randn(d_mem) * 0.2)
        self.err_bias = nn.Parameter(torch.zeros(1))
        # forgetting
        self.log_tau = nn.Parameter(torch.tensor(2.5))         # time constant in tokens, log scale
        self.read_norm = nn.LayerNorm(d_mem)
        self.readout = nn.Linear(d_mem, d_model)

    def surprise(self, content, expectation):
        # the squared mismatch of each feature is weighed by how much that feature matters
        mismatch = (content - expectation) ** 2
        drive = mismatch @ self.err_weight + self.err_bias
        return torch.sigmoid(drive)                            # (B,)

    def forward(self, x):
        batch, length, _ = x.shape
        cue = F.elu(self.cue(x)) + 1.0
        cue = cue / cue.sum(-1, keepdim=True)
        content, probe = self.content(x), F.elu(self.probe(x)) + 1.0

        fade = torch.exp(-1.0 / torch.exp(self.log_tau))
        synapses = torch.zeros(batch, self.d_mem, self.d_mem, device=x.device, dtype=x.dtype)
        recall = torch.zeros(batch, length, self.d_mem, device=x.device, dtype=x.dtype)
        recalled = []

        for t in range(length):
            c, v, p = cue[:, t], content[:, t], probe[:, t]
            expectation = torch.einsum("bij,bj->bi", synapses, c)
            s = self.surprise(v, expectation)
            hebb = torch.einsum("b,bi,bj->bij", s, v, c)
            synapses = fade * synapses + hebb
            recalled.append(torch.einsum("bij,bj->bi", synapses, p))

        recall = recall + torch.stack(recalled, dim=1)
        return self.readout(self.read_norm(recall))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_mem = nn.LayerNorm(d_model)
        self.hippocampus = NeuralMemory(d_model)
        self.blend = nn.Linear(2 * d_model, d_model)
        self.ln_out = nn.LayerNorm(d_model)
        self.out_mlp = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, d_model))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        m = self.hippocampus(self.ln_mem(x))
        g = torch.sigmoid(self.blend(torch.cat([x, m], dim=-1)))
        x = g * m + (1.0 - g) * x
        x = x + self.out_mlp(self.ln_out(x))
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
