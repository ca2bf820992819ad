"""One memory for the whole network: it watches the residual stream after the last block.

The state is kept in float64, for long sequences, and read back in the model's own type.
"""
import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64, d_key=32):
        super().__init__()
        self.d_key = d_key
        self.to_key = nn.Linear(d_model, d_key)
        self.to_value = nn.Linear(d_model, d_model)
        self.expect = nn.Bilinear(d_model, d_model, 1)
        self.gate_bias = nn.Linear(d_model, 1)
        self.decay = nn.Parameter(torch.zeros(d_key).double() + 2.0)

    def forward(self, stream):
        batch, length, width = stream.shape
        bank = torch.zeros(batch, width, self.d_key, dtype=torch.float64, device=stream.device)
        collected = []
        for t in range(length):
            now = stream[:, t]
            key = torch.nn.functional.normalize(self.to_key(now), dim=-1).double()
            value = self.to_value(now)
            expected = bank.matmul(key.unsqueeze(-1)).squeeze(-1).to(value.dtype)
            difference = value - expected
            surprise = torch.sigmoid(self.expect(difference, difference) + self.gate_bias(difference))
            strength = (surprise * value).double()
            bank = bank * self.decay.sigmoid() + strength.unsqueeze(2) * key.unsqueeze(1)
            collected.append(bank.matmul(key.unsqueeze(-1)).squeeze(-1))
        return torch.stack(collected, dim=1).to(stream.dtype)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, dropout=0.0):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        layer = nn.TransformerEncoderLayer(d_model, n_heads, 4 * d_model, dropout, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.memory = NeuralMemory(d_model)
        self.memory_norm = nn.LayerNorm(d_model)
        self.mixing = nn.Linear(2 * d_model, d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.tok(tokens) + self.pos(torch.arange(length, device=tokens.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        attended = self.encoder(x, mask=mask, is_causal=True)
        remembered = self.memory(self.memory_norm(attended))
        g = torch.sigmoid(self.mixing(torch.cat([attended, remembered], dim=-1)))
        return self.head(g * attended + (1.0 - g) * remembered)
