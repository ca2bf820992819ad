import torch
import torch.nn as nn

D_MODEL, N_HEADS, N_LAYERS, VOCAB = 64, 4, 2, 256


class MemoryCell(nn.Module):
    """LSTM-like cell, but the cell state is a matrix."""

    def __init__(self, input_size, key_size, value_size):
        super().__init__()
        self.key_size, self.value_size = key_size, value_size
        self.k_proj = nn.Linear(input_size, key_size, bias=False)
        self.v_proj = nn.Linear(input_size, value_size, bias=False)
        self.q_proj = nn.Linear(input_size, key_size, bias=False)
        self.f_gate = nn.Linear(input_size, value_size)
        self.i_gate = nn.Linear(2 * value_size, value_size)   # sees value and recalled value
        nn.init.constant_(self.f_gate.bias, 2.5)

    def init_state(self, batch_size, device, dtype):
        return torch.zeros(batch_size, self.value_size, self.key_size, device=device, dtype=dtype)

    def forward(self, x_t, C):
        k = torch.tanh(self.k_proj(x_t))
        k = k / self.key_size ** 0.5
        v = self.v_proj(x_t)
        q = torch.tanh(self.q_proj(x_t))
        v_hat = torch.bmm(C, k.unsqueeze(2)).squeeze(2)
        i = torch.sigmoid(self.i_gate(torch.cat([v, v_hat], dim=1)))
        f = torch.sigmoid(self.f_gate(x_t))
        C = f.unsqueeze(2) * C + torch.bmm((i * v).unsqueeze(2), k.unsqueeze(1))
        h = torch.bmm(C, q.unsqueeze(2)).squeeze(2)
        return h, C


class NeuralMemory(nn.Module):
    def __init__(self, d_model=D_MODEL, d_key=24, d_value=40):
        super().__init__()
        self.cell = MemoryCell(d_model, d_key, d_value)
        self.proj = nn.Linear(d_value, d_model)

    def forward(self, x):
        state = self.cell.init_state(x.size(0), x.device, x.dtype)
        hs = []
        for x_t in x.transpose(0, 1):
            h, state = self.cell(x_t, state)
            hs.append(h)
        return self.proj(torch.stack(hs, dim=1))


class Mixer(nn.Module):
    """Convex combination of two sources; weights from a softmax over two logits."""

    def __init__(self, d_model):
        super().__init__()
        self.score = nn.Linear(2 * d_model, 2)

    def forward(self, a, m):
        w = torch.softmax(self.score(torch.cat([a, m], dim=-1)), dim=-1)
        return w[..., 0:1] * a + w[..., 1:2] * m


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.mem = NeuralMemory(d_model)
        self.mix = Mixer(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        x = x + self.mix(a, self.mem(h))
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=VOCAB, d_model=D_MODEL, n_heads=N_HEADS, n_layers=N_LAYERS, max_len=512):
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
