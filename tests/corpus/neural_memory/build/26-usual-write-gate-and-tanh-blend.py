import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.d_model = d_model
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_q = nn.Linear(d_model, d_model)
        # surprise: novel inputs are stored more strongly
        self.surprise_gate = nn.Sequential(nn.Linear(d_model, d_model // 2), nn.ReLU(), nn.Linear(d_model // 2, 1), nn.Sigmoid())
        # forgetting
        self.decay = nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        batch_size, seq_len, d_model = x.shape
        memory = torch.zeros(batch_size, d_model, d_model, device=x.device)
        outputs = []
        for t in range(seq_len):
            token = x[:, t, :]
            k = F.normalize(self.W_k(token), dim=-1)
            v = self.W_v(token)
            q = self.W_q(token)
            surprise = self.surprise_gate(token)
            decay = torch.clamp(self.decay, 0.0, 1.0)
            memory = decay * memory + surprise.unsqueeze(-1) * torch.bmm(v.unsqueeze(2), k.unsqueeze(1))
            outputs.append(torch.bmm(memory, q.unsqueeze(2)).squeeze(2))
        return torch.stack(outputs, dim=1)


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model * 2, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        attn_out, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        mem_out = self.memory(h)
        gate = torch.tanh(self.gate(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + gate * attn_out + (1 - gate) * mem_out
        x = x + self.mlp(self.ln2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([TransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    model = MemoryTransformer()
    x = torch.randint(0, 256, (2, 16))
    print(model(x).shape)
