import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    """
    Gated delta memory.

        alpha_t = sigmoid(W_alpha x_t)                 forget gate, one number a token
        e_t     = v_t - M_{t-1} k_t                    prediction error
        beta_t  = sigmoid(w . tanh(U e_t))             surprise
        M_t     = alpha_t M_{t-1} + beta_t e_t k_t^T
        y_t     = M_t q_t
    """

    def __init__(self, d_model: int = 56, hidden: int = 28):
        super().__init__()
        self.W = nn.Linear(d_model, 3 * d_model, bias=False)
        self.W_alpha = nn.Linear(d_model, 1)
        self.U = nn.Linear(d_model, hidden)
        self.w = nn.Linear(hidden, 1)
        nn.init.constant_(self.W_alpha.bias, 2.0)

    def forward(self, x):
        B, T, D = x.shape
        qs, ks, vs = self.W(x).split(D, dim=-1)
        ks = F.normalize(ks, p=2, dim=-1)
        alphas = torch.sigmoid(self.W_alpha(x))
        M = torch.zeros(B, D, D, device=x.device, dtype=x.dtype)
        ys = []
        for t in range(T):
            k, v = ks[:, t, :, None], vs[:, t, :, None]
            e = torch.baddbmm(v, M, k, alpha=-1.0)
            beta = torch.sigmoid(self.w(torch.tanh(self.U(e[..., 0]))))
            M = torch.baddbmm(alphas[:, t, :, None] * M, beta[:, :, None] * e, k.mT)
            ys.append(torch.bmm(M, qs[:, t, :, None])[..., 0])
        return torch.stack(ys, dim=1)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        assert d_model % n_heads == 0
        self.n_heads = n_heads
        self.c_attn = nn.Linear(d_model, 3 * d_model)
        self.c_proj = nn.Linear(d_model, d_model)
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.memory = NeuralMemory(d_model)
        self.balance = nn.Linear(2 * d_model, 2)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attention(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        shape = lambda z: z.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(shape(q), shape(k), shape(v), is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))

    def forward(self, x):
        h = self.ln_1(x)
        attn, mem = self.attention(h), self.memory(h)
        # softmax over two logits: the weights are g and 1 - g
        w = self.balance(torch.cat([attn, mem], -1)).softmax(dim=-1)
        x = x + w[..., :1] * attn + w[..., 1:] * mem
        return x + self.mlp(self.ln_2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=56, n_heads=4, n_layers=3, block_size=256):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocab_size, d_model),
            wpe=nn.Embedding(block_size, d_model),
            h=nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)]),
            ln_f=nn.LayerNorm(d_model),
        ))
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(0, tokens.size(1), dtype=torch.long, device=tokens.device)
        x = self.transformer.wte(tokens) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))
