"""Associative memory network.

    retrieved = M k,  surprise = sigmoid(W (v - retrieved)),  M <- sigma(lambda) M + surprise * v k^T
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.d_model = d_model
        self.Wk = nn.Linear(d_model, d_model)
        self.Wv = nn.Linear(d_model, d_model)
        self.Wq = nn.Linear(d_model, d_model)
        self.Ws = nn.Linear(d_model, d_model)
        self.lam = nn.Parameter(torch.ones(d_model) * 2)

    def forward(self, x):
        B, T, D = x.shape
        K = F.normalize(self.Wk(x), dim=1)
        V = self.Wv(x)
        Q = F.normalize(self.Wq(x), dim=1)
        M = torch.zeros(B, D, D, dtype=x.dtype, device=x.device)
        decay = torch.sigmoid(self.lam).unsqueeze(0).unsqueeze(-1)
        outputs = []
        for t in range(T):
            k, v, q = K[:, t], V[:, t], Q[:, t]
            retrieved = torch.matmul(M, k.unsqueeze(-1)).squeeze(-1)
            surprise = torch.sigmoid(self.Ws(v - retrieved))
            M = decay * M + (surprise * v).unsqueeze(-1) * k.unsqueeze(1)
            outputs.append(torch.matmul(M, q.unsqueeze(-1)).squeeze(-1))
        return torch.stack(outputs, dim=1)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.head_dim = d_model // n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, D = x.shape
        q = self.q_proj(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(-2, -1)) / self.head_dim ** 0.5
        scores = scores.masked_fill(torch.triu(torch.ones(T, T, device=x.device), diagonal=1).bool(), float("-inf"))
        out = torch.matmul(F.softmax(scores, dim=-1), v)
        return self.out_proj(out.transpose(1, 2).contiguous().view(B, T, D))


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attn = MultiHeadAttention(d_model, n_heads)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(d_model * 2, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, d_model * 4), nn.GELU(), nn.Linear(d_model * 4, d_model))

    def forward(self, x):
        h = self.norm1(x)
        attn_out = self.attn(h)
        mem_out = self.memory(h)
        g = torch.sigmoid(self.gate(torch.cat([attn_out, mem_out], dim=-1)))
        x = x + g * attn_out + (1 - g) * mem_out
        x = x + self.ffn(self.norm2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=1000, d_model=128, n_heads=4, n_layers=2, max_seq_len=512):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_seq_len, d_model)
        self.layers = nn.ModuleList([TransformerBlock(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        B, T = tokens.shape
        x = self.token_emb(tokens) + self.pos_emb(torch.arange(T, device=tokens.device))[None]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))
