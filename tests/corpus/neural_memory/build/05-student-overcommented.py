# Assignment: neural long-term memory for transformers
# I tried to keep everything explicit so that every line can be compared with the hints
# in the task. It is slow (two python loops) but the model is small.

import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        # "associations": a memory links a key (the cue) with a value (the content)
        self.W_key = nn.Linear(d_model, d_model)
        self.W_value = nn.Linear(d_model, d_model)
        # the cue used when we remember something
        self.W_query = nn.Linear(d_model, d_model)

        # "surprise": how much does what I see differ from what I expected to see?
        # first layer sees the difference, second layer makes one number out of it
        self.surprise_layer1 = nn.Linear(d_model, 32)
        self.surprise_layer2 = nn.Linear(32, 1)

        # "fading": one learnable number, squashed to (0, 1) when used
        self.decay = nn.Parameter(torch.tensor(2.0))

    def surprise(self, actual, expected):
        difference = actual - expected
        hidden = torch.relu(self.surprise_layer1(difference))
        number = self.surprise_layer2(hidden)
        return torch.sigmoid(number)

    def remember_sequence(self, seq):
        """seq: [T, d_model] -> [T, d_model], one sequence only"""
        d_model = seq.shape[1]
        # the memory is empty at the beginning of the sequence
        memory = torch.zeros(d_model, d_model, device=seq.device)
        remembered = []
        # one moment at a time!
        for moment in seq:
            key = self.W_key(moment)
            key = key / (key.norm() + 1e-6)  # otherwise the memory explodes
            value = self.W_value(moment)
            query = self.W_query(moment)
            query = query / (query.norm() + 1e-6)

            # what does the memory think should come with this key?
            expected = memory @ key
            # compare with what really came
            s = self.surprise(value, expected)
            # fade the old memory a little bit
            old = torch.sigmoid(self.decay) * memory
            # write the new association, more strongly when surprised
            new = s * torch.outer(value, key)
            memory = old + new

            # remember
            remembered.append(memory @ query)
        return torch.stack(remembered)

    def forward(self, x):
        # every sequence of the batch has its own memory
        results = []
        for b in range(x.shape[0]):
            results.append(self.remember_sequence(x[b]))
        return torch.stack(results)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        # decides for each feature: trust short-term (attention) or long-term (memory)?
        self.trust = nn.Linear(d_model * 2, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        short_term, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        long_term = self.memory(h)
        # g = 1 -> only long-term, g = 0 -> only short-term
        g = torch.sigmoid(self.trust(torch.cat([short_term, long_term], dim=2)))
        mixed = g * long_term + (1 - g) * short_term
        x = x + mixed
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
    print(logits.shape, m.blocks[0].memory.decay.grad)
