"""Recurrent retention + surprise. Decays are multi-scale per head as in RetNet (Sun et al. 2023), eq. 8."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class MultiScaleDecay(nn.Module):
    """gamma_h = 1 - 2^(-5-h); turned into a logit so that it goes through the same sigmoid as the other gates"""

    def __init__(self, n_heads):
        super().__init__()
        gamma = 1 - 2.0 ** (-5 - torch.arange(n_heads, dtype=torch.float32))
        self.register_buffer("logit", torch.logit(gamma))

    def forward(self):
        return torch.sigmoid(self.logit)


class NeuralMemory(nn.Module):
    def __init__(self, embed_dim=64, n_heads=4):
        super().__init__()
        self.n_heads = n_heads
        self.head_dim = embed_dim // n_heads
        self.scaling = self.head_dim ** -0.5
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.g_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.decay = MultiScaleDecay(n_heads)
        self.surprise_in = nn.Linear(2 * self.head_dim, self.head_dim)
        self.surprise_out = nn.Linear(self.head_dim, 1)
        self.group_norm = nn.GroupNorm(n_heads, embed_dim)
        self.reset_parameters()

    def reset_parameters(self):
        for lin in (self.q_proj, self.k_proj, self.v_proj, self.g_proj):
            nn.init.xavier_uniform_(lin.weight, gain=2 ** -0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)

    def forward(self, x):
        bsz, tgt_len, dim = x.shape
        shape = (bsz, tgt_len, self.n_heads, self.head_dim)
        q = self.q_proj(x).view(shape)
        k = self.k_proj(x).view(shape) * self.scaling
        v = self.v_proj(x).view(shape)
        decay = self.decay().view(1, -1, 1, 1)

        kv = x.new_zeros(bsz, self.n_heads, self.head_dim, self.head_dim)
        output = []
        for i in range(tgt_len):
            k_i, v_i = k[:, i], v[:, i]
            recalled = torch.matmul(kv, k_i.unsqueeze(-1)).squeeze(-1)
            z = torch.cat([v_i, recalled], dim=-1)
            surprise = torch.sigmoid(self.surprise_out(F.silu(self.surprise_in(z))))
            kv = decay * kv + torch.matmul((surprise * v_i).unsqueeze(-1), k_i.unsqueeze(-2))
            output.append(torch.matmul(kv, q[:, i].unsqueeze(-1)).squeeze(-1))
        output = torch.stack(output, dim=1).reshape(bsz * tgt_len, dim)
        output = self.group_norm(output).view(bsz, tgt_len, dim)
        return self.out_proj(F.silu(self.g_proj(x)) * output)


class DecoderLayer(nn.Module):
    def __init__(self, embed_dim, n_heads, ffn_dim):
        super().__init__()
        self.attn_norm = nn.LayerNorm(embed_dim)
        self.self_attn = nn.MultiheadAttention(embed_dim, n_heads, batch_first=True)
        self.memory = NeuralMemory(embed_dim, n_heads)
        self.mix = nn.Linear(embed_dim, embed_dim)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)

    def forward(self, x, attn_mask):
        residual = x
        x = self.attn_norm(x)
        attn, _ = self.self_attn(x, x, x, attn_mask=attn_mask, need_weights=False)
        mem = self.memory(x)
        alpha = torch.sigmoid(self.mix(x))
        x = residual + alpha * attn + (1.0 - alpha) * mem
        return x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=320, d_model=64, n_heads=4, n_layers=2, ffn_dim=256, max_positions=1024):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(max_positions, d_model)
        self.layers = nn.ModuleList([DecoderLayer(d_model, n_heads, ffn_dim) for _ in range(n_layers)])
        self.layer_norm = nn.LayerNorm(d_model)
        self.output_projection = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.embed_tokens(tokens) + self.embed_positions(torch.arange(T, device=tokens.device))[None]
        mask = torch.full((T, T), float("-inf"), device=x.device, dtype=x.dtype).triu(1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.output_projection(self.layer_norm(x))
