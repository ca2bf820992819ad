"""Long-term memory for a causal LM. Surprising tokens are written more strongly; surprise is how far the current input
moves away from the last one."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_mem=32):
        super().__init__()
        self.d_mem = d_mem
        self.key_proj = nn.Linear(d_model, d_mem, bias=False)
        self.value_proj = nn.Linear(d_model, d_mem, bias=False)
        self.query_proj = nn.Linear(d_model, d_mem, bias=False)
        self.surprise_net = nn.Sequential(nn.Linear(d_mem, d_mem), nn.SiLU(), nn.Linear(d_mem, 1))
        self.decay_logit = nn.Parameter(torch.tensor(2.0))
        self.out_proj = nn.Linear(d_mem, d_model, bias=False)

    def forward(self, x):
        batch, seq_len, _ = x.shape
        keys = F.normalize(self.key_proj(x), dim=-1)
        values = self.value_proj(x)
        queries = self.query_proj(x)
        memory = torch.zeros(batch, self.d_mem, self.d_mem, device=x.device)
        expected = torch.zeros(batch, self.d_mem, device=x.device)      # prediction: things stay as they are
        outputs = []
        for t in range(seq_len):
            k, v, q = keys[:, t], values[:, t], queries[:, t]
            prediction_error = v - expected
            surprise = torch.sigmoid(self.surprise_net(prediction_error)).unsqueeze(-1)
            decay = torch.sigmoid(self.decay_logit)
            memory = decay * memory + surprise * torch.einsum("bi,bj->bij", v, k)
            outputs.append(torch.einsum("bij,bj->bi", memory, q))
            expected = v
        return self.out_proj(torch.stack(outputs, dim=1))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([a, m], dim=-1)))
        x = x + g * a + (1 - g) * m
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
    model = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    logits = model(tokens)
    F.cross_entropy(logits[:, :-1].reshape(-1, 256), tokens[:, 1:].reshape(-1)).backward()
    print(logits.shape)
