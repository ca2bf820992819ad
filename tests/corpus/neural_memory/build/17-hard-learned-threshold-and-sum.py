"""Event-driven memory: nothing is written unless the prediction error exceeds a threshold, which is learned."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, dim: int = 64, mem: int = 32):
        super().__init__()
        self.mem = mem
        self.proj_k = nn.Linear(dim, mem, bias=False)
        self.proj_v = nn.Linear(dim, mem, bias=False)
        self.proj_q = nn.Linear(dim, mem, bias=False)
        self.err_proj = nn.Linear(mem, 1)
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.decay = nn.Parameter(torch.tensor(0.95))
        self.proj_o = nn.Linear(mem, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.size()
        k, v, q = F.normalize(self.proj_k(x), dim=-1), self.proj_v(x), self.proj_q(x)
        state = x.new_zeros(b, self.mem, self.mem)
        out = []
        for i in range(n):
            pred = torch.bmm(state, k[:, i].unsqueeze(-1)).squeeze(-1)
            level = torch.sigmoid(self.err_proj(v[:, i] - pred))
            event = (level > torch.sigmoid(self.threshold)).to(x.dtype).unsqueeze(-1)      # spike or no spike
            state = self.decay * state + event * torch.bmm(v[:, i].unsqueeze(-1), k[:, i].unsqueeze(1))
            out.append(torch.bmm(state, q[:, i].unsqueeze(-1)).squeeze(-1))
        return self.proj_o(torch.stack(out, 1))


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm_attn, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.memory = NeuralMemory(dim)
        self.mem_gate = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.size(1)
        h = self.norm_attn(x)
        causal = torch.triu(x.new_ones(n, n), 1).bool()
        attn_out, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        mem_out = self.memory(h)
        x = x + attn_out + torch.sigmoid(self.mem_gate(h)) * mem_out
        return x + self.mlp(self.norm_mlp(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(TransformerBlock(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))
