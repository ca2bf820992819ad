"""nn.TransformerEncoderLayer with the self-attention block overridden: attention and memory meet inside it."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, n_mem: int = 32):
        super().__init__()
        self.key = nn.Linear(d_model, n_mem, bias=False)
        self.val = nn.Linear(d_model, n_mem, bias=False)
        self.ask = nn.Linear(d_model, n_mem, bias=False)
        self.back = nn.Linear(n_mem, d_model, bias=False)
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.bar = nn.Parameter(torch.tensor(0.5))
        self.keep_logit = nn.Parameter(torch.full((n_mem,), 3.0))

    def forward(self, x):
        keys = F.normalize(self.key(x), dim=-1)
        vals = self.val(x)
        asks = self.ask(x)
        mem = x.new_zeros(len(x), keys.size(-1), vals.size(-1))      # key-major
        keep = self.keep_logit.sigmoid()
        said = []
        for k, v, a in zip(keys.unbind(1), vals.unbind(1), asks.unbind(1)):
            r = torch.einsum("bk,bkv->bv", k, mem)
            agreement = F.cosine_similarity(v, r, dim=-1, eps=1e-6)
            surprise = torch.sigmoid(self.gain * (self.bar - agreement))
            mem = mem * keep + torch.einsum("b,bk,bv->bkv", surprise, k, v)
            said.append(torch.einsum("bk,bkv->bv", a, mem))
        return self.back(torch.stack(said, 1))


class MemoryEncoderLayer(nn.TransformerEncoderLayer):
    def __init__(self, d_model, nhead):
        super().__init__(d_model, nhead, 4 * d_model, dropout=0.0, activation=F.silu, batch_first=True, norm_first=True)
        self.memory = NeuralMemory(d_model)
        self.arbiter = nn.Linear(3 * d_model, d_model)

    def _sa_block(self, x, attn_mask, key_padding_mask, is_causal=False):
        attended = super()._sa_block(x, attn_mask, key_padding_mask, is_causal=is_causal)
        recalled = self.memory(x)
        g = torch.sigmoid(self.arbiter(torch.cat((x, attended, recalled), -1)))
        return recalled + g * (attended - recalled)


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.place = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(MemoryEncoderLayer(d_model, n_heads) for _ in range(n_layers))
        self.final = nn.LayerNorm(d_model)
        self.logits = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        t = tokens.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(t, device=tokens.device)
        x = self.token(tokens) + self.place(torch.arange(t, device=tokens.device))
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.logits(self.final(x))
