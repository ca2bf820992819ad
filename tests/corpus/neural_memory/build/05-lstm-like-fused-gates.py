import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    """
    An LSTM whose cell is a matrix. As in an LSTM, all gates come out of one linear layer over [x_t, h_{t-1}], with the
    difference that the place of h is taken by what the matrix recalls for the present key:

        r_t          = M_{t-1} k_t
        i, f, o      = sigmoid(W [x_t, v_t, r_t] + b)
        M_t          = f * M_{t-1} + (i * v_t) (x) k_t
        h_t          = o * (M_t q_t)
    """

    def __init__(self, d_model=64):
        super().__init__()
        self.d = d_model
        self.weight_x = nn.Linear(d_model, 3 * d_model)           # k, v, q
        self.weight_g = nn.Linear(3 * d_model, 3 * d_model)       # input, forget, output gate
        with torch.no_grad():
            self.weight_g.bias[d_model:2 * d_model].fill_(2.0)    # the usual forget gate bias

    def forward(self, inputs, M=None):
        B, T, D = inputs.size()
        if M is None:
            M = inputs.new_zeros((B, D, D))
        outputs = []
        for t in range(T):
            x = inputs[:, t, :]
            k, v, q = torch.split(self.weight_x(x), D, dim=1)
            k = k / (k.norm(dim=1, keepdim=True) + 1e-6)
            r = torch.bmm(M, k.view(B, D, 1)).view(B, D)
            i, f, o = torch.sigmoid(self.weight_g(torch.cat((x, v, r), dim=1))).chunk(3, dim=1)
            M = f.view(B, D, 1) * M + torch.bmm((i * v).view(B, D, 1), k.view(B, 1, D))
            outputs.append(o * torch.bmm(M, q.view(B, D, 1)).view(B, D))
        return torch.stack(outputs, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.highway = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.memory(h)
        carry = torch.sigmoid(self.highway(a))
        x = x + carry * m + (1 - carry) * a
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
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))
