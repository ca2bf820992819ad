import math
import torch
import torch.nn as nn
import torch.nn.functional as F

# ----------------------------------------------------------------------------------------------------------------
# Notes to self
#  * hippocampus: M is a weight matrix between "key neurons" and "value neurons". One per sequence, so [B, d, d].
#  * surprise: how far is the thing I see from the thing I remembered for this cue? I use the length of the error
#    (not the vector), then a learned slope and a learned threshold. If slope*(|e| - theta) is big -> write.
#  * forgetting: every synapse decays. Rate is learned, one number per layer.
#  * blending: attention = now, memory = past. One g for both.
# TODO(after deadline): chunk it, the python loop is slow for T > 1k
# ----------------------------------------------------------------------------------------------------------------


class NeuralMemory(nn.Module):

    def __init__(self, d_model=64):
        super().__init__()
        self.d = d_model

        # what do I ask, under which cue do I store, what do I store
        self.to_query = nn.Linear(d_model, d_model)
        self.to_key = nn.Linear(d_model, d_model)
        self.to_value = nn.Linear(d_model, d_model)

        # surprise = sigmoid(slope * (|error| - threshold))
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.5))

        # decay rate, sigmoid(3) ~ 0.953
        self.decay = nn.Parameter(torch.tensor(3.0))

        self.project_out = nn.Linear(d_model, d_model)

    def recall(self, M, cue):
        # [B, d, d] times [B, d] -> [B, d]
        return torch.bmm(M, cue.unsqueeze(2)).squeeze(2)

    def forward(self, x):
        batch_size, seq_len, d = x.shape

        Q = self.to_query(x)
        K = torch.softmax(self.to_key(x), dim=-1)      # positive, sums to one: M K stays in the range of the values
        V = self.to_value(x)

        M = torch.zeros(batch_size, d, d, device=x.device, dtype=x.dtype)
        outputs = []

        for t in range(seq_len):
            q = Q[:, t, :]
            k = K[:, t, :]
            v = V[:, t, :]

            # 1. recall what I know about this cue
            expected = self.recall(M, k)

            # 2. compare
            error = v - expected
            error_size = torch.sqrt((error ** 2).mean(dim=-1) + 1e-8)               # [B]
            surprise = torch.sigmoid(self.slope * (error_size - self.threshold))     # [B]

            # 3. fade, then write the association
            association = torch.bmm(v.unsqueeze(2), k.unsqueeze(1))                  # [B, d, d]
            M = torch.sigmoid(self.decay) * M + surprise.view(-1, 1, 1) * association

            # 4. recall for the output
            outputs.append(self.recall(M, q))

        return self.project_out(torch.stack(outputs, dim=1))


class Block(nn.Module):

    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.ln_m = nn.LayerNorm(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model * 2, d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Linear(4 * d_model, d_model),
        )

    def forward(self, x):
        T = x.size(1)
        mask = torch.full((T, T), float("-inf"), device=x.device).triu(1)

        # present
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + a

        # past
        m = self.memory(self.ln_m(x))

        # how much of each, decided per channel and moment
        g = torch.sigmoid(self.gate(torch.cat([x, m], dim=-1)))
        x = g * x + (1 - g) * m

        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):

    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        pe = torch.zeros(max_len, d_model)
        pos = torch.arange(max_len).unsqueeze(1)
        div = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(pos * div)
        pe[:, 1::2] = torch.cos(pos * div)
        self.register_buffer("pe", pe)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pe[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    logits = model(tokens)
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 256), tokens[:, 1:].reshape(-1))
    loss.backward()
    print("loss", loss.item())
    for name, p in model.named_parameters():
        if p.grad is None:
            print("no grad:", name)
