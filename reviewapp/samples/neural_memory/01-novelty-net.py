"""Neural long-term memory inside a small causal transformer.

Each block keeps a matrix M per sequence. Reading it with a key predicts the value; how wrong that prediction is decides
how much of the new association is written.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=32):
        super().__init__()
        self.d_key = d_key
        self.to_q = nn.Linear(d_model, d_key, bias=False)
        self.to_k = nn.Linear(d_model, d_key, bias=False)
        self.to_v = nn.Linear(d_model, d_model, bias=False)
        # compares the actual value with what the memory already returns for this key
        self.novelty_net = nn.Sequential(
            nn.Linear(2 * d_model, d_model),
            nn.Tanh(),
            nn.Linear(d_model, 1),
        )
        # sigmoid(3.0) ~ 0.95: start with slow forgetting
        self.decay_logit = nn.Parameter(torch.tensor(3.0))
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q = F.normalize(self.to_q(x), dim=-1)
        k = F.normalize(self.to_k(x), dim=-1)
        v = self.to_v(x)
        decay = torch.sigmoid(self.decay_logit)

        M = x.new_zeros(B, D, self.d_key)
        reads = []
        for t in range(T):
            k_t, v_t, q_t = k[:, t], v[:, t], q[:, t]

            # 1. what does the memory expect here?
            retrieved = torch.bmm(M, k_t.unsqueeze(2)).squeeze(2)

            # 2. novelty of the real value against that expectation
            novelty = torch.sigmoid(self.novelty_net(torch.cat([v_t, retrieved], dim=-1)))

            # 3. fade, then bind value and key
            association = torch.bmm(v_t.unsqueeze(2), k_t.unsqueeze(1))
            M = decay * M + novelty.unsqueeze(2) * association

            # 4. read for the current token
            reads.append(torch.bmm(M, q_t.unsqueeze(2)).squeeze(2))

        return self.out(torch.stack(reads, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.mix_gate = nn.Linear(2 * d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem = self.memory(h)
        g = torch.sigmoid(self.mix_gate(torch.cat([attn, mem], dim=-1)))
        fused = g * mem + (1 - g) * attn
        x = x + fused
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
    print(logits.shape, m.blocks[0].memory.decay_logit.grad)
