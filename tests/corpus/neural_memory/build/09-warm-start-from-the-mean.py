import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """Associative memory, one d_k x d_v matrix per sequence.

    An empty matrix retrieves zeros and makes the first tokens maximally surprising, so the matrix starts from a
    learned low-rank guess about the sequence ("warm start") in place of zeros.
    """

    def __init__(self, d_model, d_k=32, warm_rank=4):
        super().__init__()
        self.d_k, self.rank = d_k, warm_rank
        self.q_proj = nn.Linear(d_model, d_k)
        self.k_proj = nn.Linear(d_model, d_k)
        self.v_proj = nn.Linear(d_model, d_model)
        self.warm = nn.Linear(d_model, warm_rank * (d_k + d_model))
        self.err_gate = nn.Linear(d_model, d_model)
        self.raw_decay = nn.Parameter(torch.zeros(d_k, 1) + 3)
        self.o_proj = nn.Linear(d_model, d_model)

    def initial_matrix(self, x):
        summary = x.mean(dim=1)
        left, right = self.warm(summary).unflatten(-1, (self.rank, -1)).split([self.d_k, x.size(-1)], dim=-1)
        return left.mT @ right / self.rank

    def forward(self, x):
        q = self.q_proj(x).softmax(-1)
        k = self.k_proj(x).softmax(-1)
        v = self.v_proj(x)
        mem = self.initial_matrix(x)
        retain = self.raw_decay.sigmoid()
        read = []
        for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1)):
            delta = v_t - (k_t.unsqueeze(1) @ mem).squeeze(1)
            s_t = self.err_gate(delta).sigmoid()
            mem = retain * mem + k_t.unsqueeze(2) * (s_t * delta).unsqueeze(1)
            read.append((q_t.unsqueeze(1) @ mem).squeeze(1))
        return self.o_proj(torch.stack(read, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.alpha = nn.Linear(d_model, 1)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        alpha = torch.sigmoid(self.alpha(h))
        x = x + alpha * self.memory(h) + (1 - alpha) * a
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
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1)).backward()
    print(logits.shape)
