# My solution for the neural memory assignment
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    The memory is a trace with one strength per feature. A value and its key are bound together
    by multiplying them (like in holographic memories) and unbound again with the key.
    """

    def __init__(self, d_model=64):
        super().__init__()
        self.d_model = d_model
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.query = nn.Linear(d_model, d_model)
        self.surprise = nn.Linear(2 * d_model, d_model)
        self.decay = nn.Parameter(torch.zeros(d_model) + 2.0)

    def forward(self, x):
        B, T, D = x.shape
        # initial memory is empty
        memory = torch.zeros(B, D, device=x.device)
        all_outputs = []

        for t in range(T):
            inp = x[:, t, :]
            k = torch.tanh(self.key(inp))
            v = self.value(inp)
            q = torch.tanh(self.query(inp))

            # what does the memory say about this key?
            retrieved = memory * k

            # compare with what really came in
            s = torch.sigmoid(self.surprise(torch.cat([v, retrieved], dim=1)))

            # association of V and K
            association = v * k

            # fade, then write
            memory = torch.sigmoid(self.decay) * memory + s * association

            # read with the query
            all_outputs.append(memory * q)

        return torch.stack(all_outputs, dim=1)


class MemoryBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model * 2, 1)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.ReLU(),
            nn.Linear(4 * d_model, d_model),
        )

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        normed = self.ln1(x)
        attn_out, _ = self.attn(normed, normed, normed, attn_mask=mask)
        mem_out = self.memory(normed)
        g = torch.sigmoid(self.gate(torch.cat([attn_out, mem_out], dim=2)))
        mixed = g * attn_out + (1 - g) * mem_out
        x = x + mixed
        x = x + self.mlp(self.ln2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList()
        for i in range(n_layers):
            self.layers.append(MemoryBlock(d_model, n_heads))
        self.final_norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        B, T = tokens.shape
        x = self.embedding(tokens) + self.position(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.output(self.final_norm(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    out = model(tokens)
    print(out.shape)
    out.mean().backward()
    print("backward works")
